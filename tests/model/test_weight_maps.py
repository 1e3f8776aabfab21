"""Checkpoints that store a model's weights in other ways: fused, interleaved, transposed, less one."""

from __future__ import annotations

import json

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from support import quantised_checkpoints as write
from support import toy_family
from support.batches import run_schedule
from support.k_quant_writer import quantise as k_quantise
from support.model_with_tokenizer import save_tokenizer
from support.tiny_models import expected_logits, make_model, write_gguf

from octavo import _native
from octavo.config import EngineConfig
from octavo.formats import panels
from octavo.formats.checkpoint import open_checkpoint
from octavo.model.decoder import trace
from octavo.model.load import describe, load_model
from octavo.model.rope import Rope
from octavo.model.row_orders import by_kv_group, equal_part, pairs_to_halves, query_key_value
from octavo.model.uniform import uniform_decoder
from octavo.model.weight_map import Stored
from octavo.quantise.config import QuantiseConfig
from octavo.quantise.job import quantise
from octavo.quantise.source import Source

TOKENS = np.random.default_rng(5).integers(0, 160, 40).tolist()
HEAD_DIM = 16


def save(path, tensors, model, quantization_config=None, **settings):
    path.mkdir(exist_ok=True)
    save_file({name: value.contiguous() for name, value in tensors.items()}, path / "model.safetensors")
    config = model.config.to_dict() | {"architectures": ["Toy"], **settings}
    if quantization_config:
        config["quantization_config"] = quantization_config
    (path / "config.json").write_text(json.dumps(config))
    return path


def load(path, **settings):
    return load_model(EngineConfig(model=str(path), **settings))


LAYOUTS = {
    "fused": (toy_family.FUSED, lambda state: toy_family.fused(state, HEAD_DIM)),
    "turned": (toy_family.TURNED, toy_family.turned),
    "pairs": (toy_family.PAIRS, lambda state: toy_family.pairs(state, HEAD_DIM)),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_weights_are_those_of_the_plain_checkpoint(layout, dtype, tmp_path, monkeypatch):
    """Bit for bit, biases too, whatever the floats are stored in."""
    places, arranged = LAYOUTS[layout]
    toy_family.use(monkeypatch, places)
    model = make_model("llama-biases").to(dtype).float()
    model.config.mlp_bias = False
    state = {name: each for name, each in model.state_dict().items() if ".mlp." not in name or each.ndim > 1}

    def stored(tensors):
        return {name: each.to(dtype) for name, each in tensors.items()}

    plain_path = save(tmp_path / "plain", stored(state), model, architectures=["LlamaForCausalLM"])
    plain, ours = (
        load(plain_path).weights,
        load(save(tmp_path / "toy", stored(arranged(state)), model)).weights,
    )
    assert ours.keys() == plain.keys()
    for name, expected in plain.items():
        if layout == "turned" and "norm" in name and dtype is not torch.float32:
            half_step = 2.0**-8 if dtype is torch.bfloat16 else 2.0**-11  # of the difference to one
            assert np.allclose(ours[name].to_float32(), expected.to_float32(), atol=half_step)
            continue
        assert ours[name].encoding is expected.encoding, name
        assert np.array_equal(ours[name].to_float32(), expected.to_float32()), name


@pytest.mark.parametrize("layout", LAYOUTS)
def test_logits(layout, tmp_path, monkeypatch, backend, compile_model):
    places, arranged = LAYOUTS[layout]
    toy_family.use(monkeypatch, places)
    model = make_model("llama")
    path = save(tmp_path, arranged(model.state_dict()), model)
    _, executable = compile_model(path, backend, "float32")
    (rows,) = run_schedule(executable, [TOKENS], [[(0, 40)]])
    ours = np.stack([rows[position] for position in range(len(TOKENS))])
    expected = expected_logits(model, TOKENS)
    assert np.abs(ours - expected).max() < 1e-5 * np.ptp(expected)


QUANTISED = {
    "awq": ({"quant_method": "awq", "bits": 4}, lambda: write.awq(64)),
    "gptq": ({"quant_method": "gptq", "bits": 4}, write.gptq),
    "gptq-act-order": ({"quant_method": "gptq", "bits": 4}, lambda: write.gptq(act_order=True)),
    "fp8-block": (
        {"quant_method": "fp8", "weight_block_size": [128, 128]},
        lambda: write.float8("block"),
    ),
    "nf4": ({"quant_method": "bitsandbytes", "load_in_4bit": True}, lambda: write.bitsandbytes("nf4")),
    "mxfp4": ({"quant_method": "mxfp4"}, lambda: write.mxfp4),
}


@pytest.mark.parametrize("method", QUANTISED)
def test_rows_of_fused_quantised_weights(method, tmp_path, monkeypatch):
    """Each weight has the values that the fused one has in its rows, and runs in a form that is as near."""
    toy_family.use(monkeypatch, toy_family.FUSED)
    model, (config, writer) = make_model("llama-wide"), QUANTISED[method]
    head_dim = model.config.hidden_size // model.config.num_attention_heads
    quantised, tensors, values = writer(), {}, {}
    for name, value in toy_family.fused(model.state_dict(), head_dim).items():
        tensors[name] = values[name] = value
        if name.endswith("_proj.weight"):
            parts, dequantised = quantised(value)
            del tensors[name]
            tensors |= {name.removesuffix(".weight") + suffix: part for suffix, part in parts.items()}
            values[name] = torch.from_numpy(dequantised)
    path = save(tmp_path / "toy", tensors, model, config)
    exact, packed = load(path, dtype="float32"), load(path)
    dequantised = save(tmp_path / "dequantised", values, model)
    expected = load(dequantised, dtype="float32").weights
    source = Source(checkpoint := open_checkpoint(path), describe(checkpoint).spec)
    rows = np.array([37, 3, 36, 60])
    for name, weight in expected.items():
        assert np.array_equal(exact.weights[name].to_float32(), weight.to_float32()), name
        if ".attn." in name or ".mlp." in name:
            error = np.abs(packed.weights[name].to_float32() - weight.to_float32()).max()
            assert error < 0.02 * np.abs(weight.to_float32()).max(), name
            assert packed.weights[name].encoding is load(path).weights["layers.0.mlp.down.weight"].encoding
            assert np.array_equal(source[name], weight.to_float32()), name
            assert np.array_equal(source.rows(name, rows), weight.to_float32()[rows]), name


@pytest.mark.parametrize("kind", ["F16", "Q8_0", "Q4_1", "Q4_K", "Q3_K"])
def test_fused_tensors_of_a_gguf(kind, tmp_path, monkeypatch):
    """They stay views of the file where the kernels run what is stored."""
    toy_family.use(monkeypatch)
    model = make_model("llama-wide")
    plain, path = tmp_path / "plain.gguf", tmp_path / "toy.gguf"
    write_gguf(model, plain, gguf.GGMLQuantizationType[kind])
    reader = gguf.GGUFReader(plain)
    writer = gguf.GGUFWriter(path, "toy")
    for field in reader.fields.values():
        if field.name.startswith("llama.") and field.types[0] is not gguf.GGUFValueType.ARRAY:
            writer.add_key_value(field.name.replace("llama.", "toy."), field.contents(), field.types[0])
    tensors = {each.name: each for each in reader.tensors}
    state = model.state_dict()
    for name, each in tensors.items():
        if name.endswith("attn_q.weight"):
            layer = int(name.split(".")[1])
            parts = [state[f"model.layers.{layer}.self_attn.{part}_proj.weight"].numpy() for part in "qkv"]
            data = k_quantise(np.concatenate(parts), each.tensor_type)
            writer.add_tensor(f"blk.{layer}.attn_qkv.weight", data, raw_dtype=each.tensor_type)
        elif ".attn_k." not in name and ".attn_v." not in name:
            writer.add_tensor(name, each.data, raw_dtype=each.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    ours, expected = load(path).weights, load(plain).weights
    assert ours.keys() == expected.keys()
    for name in expected:
        assert np.array_equal(ours[name].data, expected[name].data), name
    assert ours["layers.0.attn.k.weight"].data.flags.owndata == (kind == "Q3_K")


@pytest.mark.parametrize("quantization", ["int8", "int4", "fp8"])
def test_rounded_on_load(quantization, tmp_path, monkeypatch):
    """As the plain checkpoint is, as a Tensor and as panels that are filled a piece at a time."""
    toy_family.use(monkeypatch, toy_family.FUSED)
    monkeypatch.setattr(panels, "_PIECE_VALUES", 32 * 64)
    model = make_model("llama")
    save(tmp_path / "toy", toy_family.fused(model.state_dict(), HEAD_DIM), model)
    model.save_pretrained(tmp_path / "plain")
    ours, plain = (load(tmp_path / name, quantization=quantization).weights for name in ("toy", "plain"))
    for name, expected in plain.items():
        assert np.array_equal(ours[name].data, expected.data), name
        mine, theirs = ours.panel_rows(name), plain.panel_rows(name)
        assert (mine is None) == (theirs is None)
        if mine is None:
            continue
        assert (mine.shape, mine.encoding) == (theirs.shape, theirs.encoding)
        for each in mine.slices():
            size = -(-(each.stop - each.start) // 16) * _native.panel_bytes(
                mine.encoding.value, mine.shape[1]
            )
            made = np.empty((2, size), np.uint8)
            mine.fill(each, made[0])
            theirs.fill(each, made[1])
            assert np.array_equal(*made), name


def test_a_quantised_weight_is_not_transposed(tmp_path, monkeypatch):
    toy_family.use(monkeypatch, toy_family.TURNED)
    model = make_model("llama-wide")
    write.write_checkpoint(model, tmp_path, write.gptq(), {"quant_method": "gptq", "bits": 4})
    config = json.loads((tmp_path / "config.json").read_text()) | {"architectures": ["Toy"]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        ValueError, match=r"o_proj.weight' is GPTQ .* which octavo does not transpose"
    ) as caught:
        load(tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_a_fused_tensor_of_other_sizes(tmp_path, monkeypatch):
    toy_family.use(monkeypatch, toy_family.FUSED)
    model = make_model("llama")
    path = save(tmp_path, toy_family.fused(model.state_dict(), HEAD_DIM), model, num_key_value_heads=1)
    with pytest.raises(ValueError, match=r"qkv_proj.weight' has shape \(128, 64\), not \(96, 64\)"):
        load(path)


def test_a_map_that_uses_rows_twice(tmp_path, monkeypatch):
    twice = toy_family.FUSED.changed({"layers.mlp.up": Stored(toy_family.GATE_UP, rows=equal_part(0))})
    toy_family.use(monkeypatch, twice)
    model = make_model("llama")
    path = save(tmp_path, toy_family.fused(model.state_dict(), HEAD_DIM), model)
    with pytest.raises(ValueError, match="192 rows, and some belong to none of"):
        load(path)


def test_tensors_that_a_family_ignores(tmp_path, monkeypatch):
    """A vision tower and a layer beyond the last; of a layer that is there, every tensor has to be known."""
    toy_family.use(monkeypatch, toy_family.FUSED)
    model = make_model("llama")
    state = toy_family.fused(model.state_dict(), HEAD_DIM)
    more = {
        "vision_tower.patch.weight": torch.ones(3),
        "model.layers.3.self_attn.o_proj.weight": torch.ones(3),
    }
    assert load(save(tmp_path, state | more, model)).spec.num_layers == 3
    unknown = {"model.layers.2.self_attn.gate.weight": torch.ones(3)}
    with pytest.raises(ValueError, match=r"layers\.2\.self_attn\.gate\.weight' is not part of the model"):
        load(save(tmp_path, state | more | unknown, model))


def test_quantize_reads_fused_and_writes_no_fused(tmp_path, monkeypatch):
    toy_family.use(monkeypatch, toy_family.FUSED)
    model = make_model("llama")
    path = save(tmp_path / "toy", toy_family.fused(model.state_dict(), HEAD_DIM), model)
    save_tokenizer(path)
    config = QuantiseConfig(model=str(path), output=str(tmp_path / "out"), format="int8")
    with pytest.raises(ValueError, match=r"does not write the tensor \S+qkv_proj.weight of a toy model"):
        quantise(config)


@pytest.mark.parametrize("method", ["rtn", "gptq", "awq"])
def test_quantize_writes_pairs_as_they_were(method, tmp_path, monkeypatch):
    """The codes of an interleaved checkpoint are those of the plain one, in the checkpoint's order."""
    toy_family.use(monkeypatch, toy_family.PAIRS)
    model = make_model("llama")
    save(tmp_path / "toy", toy_family.pairs(model.state_dict(), HEAD_DIM), model)
    model.save_pretrained(tmp_path / "plain")
    for name in ("toy", "plain"):
        save_tokenizer(tmp_path / name)
        config = {"format": "int4", "zero_points": True, "method": method}
        if method != "rtn":
            (tmp_path / "text").write_text("a quick jug " * 5)
            config |= {"calibration": str(tmp_path / "text")}
        monkeypatch.setattr("octavo.quantise.job._sequences", lambda *_: [TOKENS])
        quantise(QuantiseConfig(model=str(tmp_path / name), output=str(tmp_path / f"{name}-q"), **config))
    ours, plain = load(tmp_path / "toy-q").weights, load(tmp_path / "plain-q").weights
    for name, expected in plain.items():
        assert np.array_equal(ours[name].to_float32(), expected.to_float32()), name


SPEC = uniform_decoder(
    family="test",
    num_layers=1,
    hidden_size=32,
    num_heads=4,
    num_kv_heads=2,
    head_dim=6,
    intermediate_size=8,
    vocab_size=9,
    max_position=8,
    norm_eps=1e-5,
    rope=Rope(dim=4, theta=1e4),
)


def test_row_orders():
    """Those of q, k and v cover a fused tensor once, and partly rotated heads keep their ends."""
    counts = {"q": 24, "k": 12, "v": 12}
    for order in (query_key_value, by_kv_group):
        rows = np.concatenate([order(part)(SPEC, 0, count) for part, count in counts.items()])
        assert sorted(rows) == list(range(48))
    assert query_key_value("v")(SPEC, 0, 12).tolist() == list(range(36, 48))
    assert by_kv_group("k")(SPEC, 0, 12).tolist() == [*range(12, 18), *range(36, 42)]
    assert pairs_to_halves(SPEC, 0, 12).tolist() == [0, 2, 1, 3, 4, 5, 6, 8, 7, 9, 10, 11]


def test_names():
    shapes = trace(SPEC).weight_shapes
    assert toy_family.FUSED.tensor_name("layers.12.attn.k.bias") == "model.layers.12.self_attn.qkv_proj.bias"
    assert toy_family.FUSED.tensor_name("lm_head.weight") == "lm_head.weight"
    assert all(toy_family.FUSED.stored(name) for name in shapes)
    assert toy_family.FUSED.ignores("model.layers.7.eh_proj.weight", 7)
    assert not toy_family.FUSED.ignores("model.layers.6.eh_proj.weight", 7)
    assert not toy_family.FUSED.ignores("xvision_tower.a", 7)
