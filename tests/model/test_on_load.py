"""`--quantization int8 | int4 | fp8 | awq-like`: checkpoints of 16 and 32 bits that are rounded at load."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import tokenizers
import torch
from gguf import GGMLQuantizationType
from safetensors.torch import load_file, save_file
from support.batches import run_schedule
from support.tiny_models import expected_logits, write_gguf

from octavo import _native
from octavo.config import EngineConfig
from octavo.formats import panels
from octavo.formats.tensor import Encoding
from octavo.machine.memory import Memory
from octavo.model.decoder import trace
from octavo.model.load import load_model
from octavo.plan.inspect import inspect_model
from octavo.quantise.on_load import calibrated
from octavo.quantise.sample_text import SAMPLE_TEXT
from octavo.runtime.backend import Limits
from octavo.runtime.kv_cache import KVCacheSpec
from octavo.runtime.reference import ReferenceBackend

TOKENS = np.random.default_rng(3).integers(0, 160, 40).tolist()
ERRORS = {"int8": 0.05, "fp8": 0.2, "int4": 0.4}
"""Largest difference of a random model's logits, in parts of their range."""

PLENTY = Memory(1 << 34, 1 << 34)
RUNS_AS = {"int8": Encoding.Q8_0, "int4": Encoding.Q4_0}


def logits(model):
    kv = KVCacheSpec(trace(model.spec).cache_layers, "float32")
    limits = Limits(64, 64, 1, model.max_model_len, model.spec.vocab_size)
    executable = ReferenceBackend().compile(trace(model.spec), model.weights, kv, limits)
    (rows,) = run_schedule(executable, [TOKENS], [[(0, 40)]])
    return np.stack([rows[position] for position in range(len(TOKENS))])


def load(path, quantization, **settings):
    return load_model(EngineConfig(model=str(path), quantization=quantization, **settings), calibrated)


@pytest.fixture(scope="module")
def half(tiny_model, tmp_path_factory):
    """A model in bfloat16, its directory, and its own logits."""
    path = tmp_path_factory.mktemp("half")
    model = tiny_model("llama3-tied").model
    half = type(model)(model.config)
    half.load_state_dict(model.state_dict())
    half.to(torch.bfloat16).save_pretrained(path)
    return path, expected_logits(half.float().eval(), TOKENS)


@pytest.mark.parametrize("quantization", ERRORS)
def test_bfloat16_checkpoint(quantization, half):
    path, expected = half
    model = load(path, quantization)
    assert np.abs(logits(model) - expected).max() < ERRORS[quantization] * np.ptp(expected)
    assert np.abs(logits(model) - expected).max() > 1e-4 * np.ptp(expected)
    assert model.weights["embed.weight"].encoding is Encoding.BF16
    assert model.weights["norm.weight"].encoding is Encoding.F32
    assert model.weights["lm_head.weight"].encoding is Encoding.Q8_0  # although it is tied
    if quantization in RUNS_AS:
        assert model.weights["layers.1.mlp.down.weight"].encoding is RUNS_AS[quantization]


def test_gguf_of_interleaved_rows_is_the_same(tiny_model, tmp_path):
    model = tiny_model("llama").model
    model.save_pretrained(tmp_path / "hf")
    write_gguf(model, tmp_path / "f32.gguf", GGMLQuantizationType.F32)
    ours = [load(tmp_path / name, "int4").weights for name in ("hf", "f32.gguf")]
    for name in ours[0]:
        assert np.array_equal(ours[0][name].data, ours[1][name].data), name


@pytest.mark.parametrize("quantization", ERRORS)
def test_panels_are_those_of_the_tensor(quantization, tiny_model, tmp_path, monkeypatch):
    """What is rounded straight into the kernels' layout, of a file with interleaved rows, in small pieces."""
    monkeypatch.setattr(panels, "_PIECE_VALUES", 64 * 32)
    write_gguf(tiny_model("llama").model, tmp_path / "f16.gguf", GGMLQuantizationType.F16)
    weights = load(tmp_path / "f16.gguf", quantization).weights
    program = _native.Program(1, "portable")
    pieces = 0
    for name in weights:
        rows = weights.panel_rows(name)
        if rows is None:
            assert len(weights[name].shape) == 1 or name in ("embed.weight", "rope.full")
            continue
        tensor = weights[name]
        assert (tensor.encoding, tensor.shape) == (rows.encoding, rows.shape)
        size = -(-tensor.rows // 16) * _native.panel_bytes(tensor.encoding.value, tensor.shape[-1])
        expected, made = np.empty((2, size), np.uint8)
        program.pack(tensor.encoding.value, *tensor.shape, tensor.data, 0, expected)
        for each in rows.slices():
            part = slice(each.start // 16 * size * 16 // tensor.rows, each.stop * size // tensor.rows)
            rows.fill(each, made[part])
            pieces += 1
        assert np.array_equal(made, expected), name
    assert pieces > len(list(weights))
    exact = load(tmp_path / "f16.gguf", quantization, dtype="float32").weights
    assert exact.panel_rows("layers.0.attn.q.weight") is None


def test_float32_has_the_rounded_values(half):
    path, _ = half
    exact, packed = load(path, "int8", dtype="float32"), load(path, "int8")
    name = "layers.0.attn.q.weight"
    assert exact.weights[name].encoding is Encoding.F32
    assert np.array_equal(exact.weights[name].to_float32(), packed.weights[name].to_float32())


def test_rows_that_are_not_whole_groups_stay(tiny_model, tmp_path):
    model = tiny_model("llama").model
    config = type(model.config)(**model.config.to_dict() | {"intermediate_size": 80})
    type(model)(config).save_pretrained(tmp_path)
    weights = load(tmp_path, "int4").weights
    assert weights["layers.0.mlp.down.weight"].encoding is Encoding.F32
    assert weights["layers.0.mlp.up.weight"].encoding is Encoding.Q4_0


def test_what_is_quantised_already_is_refused(demo_model):
    message = r"\(--quantization\) is int4, which rounds .* but \S+ is quantised already: \S+ is Q4_1"
    with pytest.raises(ValueError, match=message):
        load(demo_model, "int4")


def test_what_is_not_finite_is_named(half, tmp_path):
    path, _ = half
    tensors = load_file(path / "model.safetensors")
    tensors["model.layers.0.self_attn.q_proj.weight"][0, 0] = torch.inf
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_bytes((path / "config.json").read_bytes())
    with pytest.raises(ValueError, match=r"layers\.0\.attn\.q\.weight has values that are not finite"):
        load(tmp_path, "int8").weights["layers.0.attn.q.weight"]


def test_awq_like_calibrates_on_a_text(half, tmp_path):
    path, expected = half
    shutil.copytree(path, tmp_path / "model")
    words = list(dict.fromkeys(SAMPLE_TEXT.split()))[:150]
    tokens = {word: number for number, word in enumerate(["<unk>", *words])}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(tokens, unk_token="<unk>"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(tmp_path / "model/tokenizer.json"))
    model = load(tmp_path / "model", "awq-like")
    assert model.weights["layers.0.attn.v.weight"].encoding is Encoding.Q4_0
    original = load(path, None).weights
    vectors = [name for name, weight in original.items() if len(weight.shape) == 1]
    assert any(model.weights[name].data.tobytes() != original[name].data.tobytes() for name in vectors)
    assert np.abs(logits(model) - expected).max() < ERRORS["int4"] * np.ptp(expected)


def test_inspect_says_what_it_runs_as(half):
    path, _ = half
    found = inspect_model(EngineConfig(model=str(path), quantization="int4"), PLENTY)
    layer = next(each for each in found.layers if each.name == "layer 0")
    assert {(form.stored, form.runs_as) for form in layer.forms} == {("BF16", "Q4_0")}
    head = next(each for each in found.layers if each.name == "lm_head")
    assert head.forms[0].runs_as == "Q8_0"
    plain = inspect_model(EngineConfig(model=str(path)), PLENTY)
    assert found.parameters == plain.parameters
    assert found.packed_bytes < plain.packed_bytes
