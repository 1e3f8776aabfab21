"""`octavo quantize`: what it writes, read by octavo, compressed-tensors, transformers and gguf-py."""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file
from support.model_with_tokenizer import TEXT, save_model, save_tokenizer
from support.tiny_models import expected_logits, make_model, read_gguf

from octavo.cli.main import main
from octavo.config import EngineConfig
from octavo.formats.checkpoint import open_checkpoint
from octavo.formats.normalise import normalise
from octavo.formats.tensor import Encoding, Tensor
from octavo.model.load import load_model, read_model_info
from octavo.quantise.config import QuantiseConfig
from octavo.quantise.job import quantise
from octavo.tokenizer.load import load_tokenizer

TOKENS = np.random.default_rng(3).integers(3, 260, 40).tolist()
LINEAR = "model.layers.1.mlp.down_proj.weight"


def written(original: Path, path: Path, **settings: object) -> Path:
    return quantise(QuantiseConfig(model=str(original), output=str(path), **settings))


def dequantised(model: transformers.PreTrainedModel, path: Path) -> transformers.PreTrainedModel:
    """`model` with the weights of `path` as octavo reads them."""
    checkpoint = open_checkpoint(path)
    copy = transformers.AutoModelForCausalLM.from_config(model.config).float().eval()
    state = {name: torch.tensor(checkpoint.tensor(name).to_float32()) for name in checkpoint.tensors}
    copy.load_state_dict(state)
    return copy


def logit_error(model, other) -> float:
    expected = expected_logits(model, TOKENS)
    return float(np.square(expected_logits(other, TOKENS) - expected).mean() / expected.var())


def weight_error(model, other) -> float:
    """The largest error of a matrix, in parts of its values' variance; vectors are kept."""
    theirs, errors = other.state_dict(), [0.0]
    for name, value in model.state_dict().items():
        if value.ndim == 1:
            assert torch.equal(theirs[name], value)
        else:
            errors.append(float((theirs[name] - value).square().mean() / value.var()))
    return max(errors)


SAFETENSORS = {
    "int8": ({"format": "int8"}, "compressed-tensors int8, groups of 32", Encoding.Q8_0, 5e-5),
    "int8-64": (
        {"format": "int8", "group_size": 64},
        "compressed-tensors int8, groups of 64",
        Encoding.Q8_0,
        5e-5,
    ),
    "int4": ({"format": "int4"}, "compressed-tensors int4, groups of 32", Encoding.Q4_0, 0.01),
    "int4-zeros": (
        {"format": "int4", "zero_points": True, "group_size": 128},
        "compressed-tensors int4, groups of 128",
        Encoding.Q4_1,
        0.015,
    ),
    "fp8": ({"format": "fp8"}, "FP8 E4M3, a scale a row", Encoding.F8_E4M3, 2e-3),
}


@pytest.mark.parametrize("name", SAFETENSORS)
def test_compressed_tensors(name, original, tmp_path):
    path, model = original
    settings, description, runs_as, bound = SAFETENSORS[name]
    out = written(path, tmp_path / "out", **settings)
    weight = open_checkpoint(out).tensor(LINEAR)
    assert weight.format == description
    assert normalise(weight).encoding is runs_as
    assert weight_error(model, dequantised(model, out)) < bound
    assert load_tokenizer(out).encode("quick") == load_tokenizer(path).encode("quick")
    assert read_model_info(out) == read_model_info(path)
    _compare_with_the_library(out, settings["format"])


def _compare_with_the_library(path: Path, name: str) -> None:
    """compressed-tensors' own config and decompression."""
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationConfig

    settings = json.loads((path / "config.json").read_text())["quantization_config"]
    config = QuantizationConfig.model_validate(settings)
    scheme = config.config_groups["group_0"]
    assert scheme.weights.num_bits == (4 if name == "int4" else 8)
    compressor = BaseCompressor.get_value_from_registry(config.format)
    tensors = load_file(path / "model.safetensors")
    module = LINEAR.removesuffix("weight")
    parts = {key.removeprefix(module): value for key, value in tensors.items() if key.startswith(module)}
    theirs = compressor.decompress(parts, scheme)["weight"].float().numpy()
    ours = open_checkpoint(path).tensor(LINEAR).to_float32()
    # The library multiplies in the dtype of the scales.
    assert np.allclose(theirs, ours, rtol=2**-10, atol=1e-6)


def test_transformers_reads_it(original, tmp_path):
    pytest.importorskip("compressed_tensors")
    path, _ = original
    out = written(path, tmp_path / "out", format="int8")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32).eval()
    ours = dequantised(theirs, out)
    assert logit_error(ours, theirs) < 1e-5


@pytest.mark.parametrize(("name", "bound"), [("q8_0", 5e-5), ("q4_0", 0.01), ("q4_1", 0.01), ("f16", 1e-8)])
def test_gguf(name, bound, original, tmp_path):
    path, model = original
    out = written(path, tmp_path / "out.gguf", format=f"gguf-{name}")
    kind = gguf.GGMLQuantizationType[name.upper()]
    reader = gguf.GGUFReader(out)
    theirs = {each.name: each for each in reader.tensors}
    assert theirs["blk.0.attn_q.weight"].tensor_type is kind
    ours = open_checkpoint(out)
    for each in theirs.values():
        values = gguf.dequantize(each.data, each.tensor_type)
        assert np.array_equal(
            ours.tensor(each.name).to_float32(), values.reshape(ours.tensor(each.name).shape)
        )
    assert weight_error(model, read_gguf(out)) < bound
    assert load_tokenizer(out).encode("a quick jug 12") == load_tokenizer(path).encode("a quick jug 12")
    assert load_tokenizer(out).chat_template == load_tokenizer(path).chat_template
    assert read_model_info(out).spec.ropes == read_model_info(path).spec.ropes


def test_gguf_to_safetensors_and_back(original, tmp_path):
    path, model = original
    file = written(path, tmp_path / "f32.gguf", format="gguf-f32")
    directory = written(file, tmp_path / "f32", format="f32")
    again = written(directory, tmp_path / "again.gguf", format="gguf-f32")
    copied = written(file, tmp_path / "copied.gguf", format="gguf-f32")
    assert logit_error(model, dequantised(model, directory)) < 1e-10
    names = open_checkpoint(file).tensors
    for other in (again, copied):
        checkpoint = open_checkpoint(other)
        assert checkpoint.tensors == names
        for name in names:
            assert np.array_equal(checkpoint.tensor(name).data, open_checkpoint(file).tensor(name).data)
    assert open_checkpoint(copied).metadata.keys() == open_checkpoint(file).metadata.keys()
    assert load_tokenizer(directory).encode("a quick jug") == load_tokenizer(path).encode("a quick jug")
    assert transformers.AutoTokenizer.from_pretrained(directory).encode("quick") == load_tokenizer(
        path
    ).encode("quick")


def test_biases_of_q_and_k_go_with_their_rows(tmp_path):
    """llama.cpp's order of rotary pairs is that of a bias as well."""
    make_model("llama-biases").save_pretrained(tmp_path / "model")
    save_tokenizer(tmp_path / "model")
    file = written(tmp_path / "model", tmp_path / "f32.gguf", format="gguf-f32")
    weights = load_model(EngineConfig(model=str(tmp_path / "model"))).weights
    again = load_model(EngineConfig(model=str(file))).weights
    for name, expected in weights.items():
        assert np.array_equal(again[name].to_float32(), expected.to_float32()), name


@pytest.mark.parametrize("rotary", [
    {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0},
    {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 32},
    {"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0,
     "high_freq_factor": 4.0, "original_max_position_embeddings": 16},
])  # fmt: skip
def test_scaled_ropes(rotary, tmp_path):
    save_model(tmp_path / "in", rope_parameters=rotary, num_hidden_layers=1)
    out = written(tmp_path / "in", tmp_path / "out.gguf", format="gguf-q8_0")
    ours, theirs = read_model_info(out).spec, read_model_info(tmp_path / "in").spec
    assert ours.max_position == theirs.max_position
    assert np.allclose(ours.tables(64)["rope.full"], theirs.tables(64)["rope.full"], atol=1e-5)


@pytest.mark.parametrize("method", ["awq", "gptq"])
@pytest.mark.parametrize("form", ["int4", "gguf-q4_0", "gguf-q4_1"])
def test_calibration_is_better_than_none(method, form, original, tmp_path):
    path, model = original
    text = tmp_path / "text.txt"
    text.write_text(TEXT)
    suffix = ".gguf" if "gguf" in form else ""
    plain = written(path, tmp_path / f"plain{suffix}", format=form)
    better = written(path, tmp_path / f"better{suffix}", format=form, method=method, calibration=str(text))
    tokens = load_tokenizer(path).encode(TEXT)[:100]

    def error(out: Path) -> float:
        read = read_gguf(out) if suffix else dequantised(model, out)
        expected = expected_logits(model, tokens)
        return float(np.square(expected_logits(read, tokens) - expected).mean())

    assert error(better) < 0.8 * error(plain)
    assert not (tmp_path / f"better{suffix}.scalings").exists()


@pytest.mark.parametrize("settings", [
    {"format": "int4"}, {"format": "int4", "method": "awq"}, {"format": "gguf-q4_1", "method": "gptq"},
    {"format": "fp8", "method": "gptq"},
])  # fmt: skip
def test_goes_on_where_it_was_stopped(settings, original, tmp_path):
    path, _ = original
    name = "out.gguf" if "gguf" in settings["format"] else "out"
    whole = written(path, tmp_path / f"whole-{name}", **settings)

    class Stopped(Exception):
        pass

    def stop_at(limit: int):
        calls = []

        def report(what: str, done: int, total: int) -> None:
            calls.append(what)
            if len(calls) == limit:
                raise Stopped

        return report

    config = QuantiseConfig(model=str(path), output=str(tmp_path / name), **settings)
    for limit in (3, 9):
        with pytest.raises(Stopped):
            quantise(config, stop_at(limit))
        assert not (tmp_path / name / "config.json").exists()
        assert name == "out" or not (tmp_path / name).exists()
    quantise(config)
    pair = [whole, tmp_path / name]
    if name == "out":
        assert {each.name for each in pair[0].iterdir()} == {each.name for each in pair[1].iterdir()}
        pair = [each / "model.safetensors" for each in pair]
    assert pair[0].read_bytes() == pair[1].read_bytes()
    assert (
        not list(tmp_path.glob("*.part"))
        + list(tmp_path.glob("*.journal"))
        + list(tmp_path.glob("*.scalings"))
    )


def test_what_was_begun_with_other_settings_is_not_kept(original, tmp_path):
    path, _ = original

    def stop(what: str, done: int, total: int) -> None:
        if done == 5:
            raise KeyboardInterrupt

    out = str(tmp_path / "out.gguf")
    with pytest.raises(KeyboardInterrupt):
        quantise(QuantiseConfig(model=str(path), output=out, format="gguf-q4_0", method="gptq"), stop)
    quantise(QuantiseConfig(model=str(path), output=out, format="gguf-q4_0"))
    plain = written(path, tmp_path / "plain.gguf", format="gguf-q4_0")
    assert plain.read_bytes() == Path(out).read_bytes()


def test_shards(original, tmp_path, monkeypatch):
    path, _ = original
    monkeypatch.setattr("octavo.quantise.safetensors_output.MAX_SHARD_BYTES", 100_000)
    out = written(path, tmp_path / "out", format="int8")
    files = sorted(each.name for each in out.glob("*.safetensors"))
    assert len(files) > 2
    assert files[0] == f"model-00001-of-{len(files):05}.safetensors"
    monkeypatch.undo()
    single = written(path, tmp_path / "single", format="int8")
    model, other = (load_model(EngineConfig(model=str(each))) for each in (out, single))
    assert all(np.array_equal(model.weights[name].data, other.weights[name].data) for name in model.weights)
    transformers.AutoModelForCausalLM.from_pretrained(out)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"format": "gguf-q4_0"}, "the name of a GGUF file ends in .gguf"),
        (
            {"format": "gguf-q4_0", "group_size": 64},
            "group_size (--group-size) is 32, 64 or 128, for int8 and int4",
        ),
        ({"group_size": 33}, "got 33"),
        ({"format": "int8", "zero_points": True}, "zero_points (--zero-points) are for int4"),
        ({"format": "fp8", "method": "awq"}, "method (--method) awq is for int8, int4"),
        ({"format": "f16", "method": "gptq"}, "method (--method) gptq is for int8, int4"),
        ({"calibration": "text.txt"}, "is for --method awq and gptq"),
        ({"method": "awq", "calibration": "nowhere.txt"}, "nowhere.txt: cannot read: No such file"),
        ({"model": "nowhere"}, "'nowhere' is not there"),
    ],
)
def test_errors(settings, message, original, tmp_path, capsys):
    flags = [
        f"--{key.replace('_', '-')}={value}"
        for key, value in settings.items()
        if key not in ("model", "zero_points")
    ]
    flags += ["--zero-points"] if "zero_points" in settings else []
    path = settings.get("model", str(original[0]))
    assert main(["quantize", path, str(tmp_path / "out"), *flags]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_command(original, tmp_path, capsys):
    path, _ = original
    out = str(tmp_path / "out")
    assert main(["quantize", str(path), out, "--format", "int8"]) == 0
    assert "MiB" in capsys.readouterr().out
    assert main(["quantize", str(path), out, "--format", "int8"]) == 1
    assert "is there already" in capsys.readouterr().err
    assert isinstance(open_checkpoint(Path(out)).tensor("model.norm.weight"), Tensor)
