"""Each family's logits against transformers, through prefill, chunked prefill and batched decode."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import transformers
from gguf import GGMLQuantizationType
from support.batches import run_schedule
from support.tiny_models import CONFIGS, expected_logits, read_gguf, write_gguf

# Odd lengths, chunks that end inside a block, on its border and one past it, and a step of a single token.
LENGTHS = (53, 34, 19)
SCHEDULE = [
    [(0, 13), (1, 33)],
    [(0, 19), (2, 1)],
    [(2, 15), (0, 1), (1, 1)],
    *[[(0, 1), (2, 1)]] * 3,
    *[[(0, 1)]] * 17,
]
SEQUENCES = [np.random.default_rng(length).integers(0, 160, length).tolist() for length in LENGTHS]

FLOAT32_KV, FLOAT16_KV = 1e-5, 2e-3
"""Largest difference, in parts of the logits' range, that rounding explains."""


@pytest.fixture
def largest_difference(backend, compile_model) -> Callable[..., float]:
    """Runs the model at a path and gives its logits' distance to `model`'s, in parts of their range."""

    def run(
        path: Path, model: transformers.PreTrainedModel, dtype: str = "float32", kv_dtype: str = "float32"
    ) -> float:
        _, executable = compile_model(path, backend, dtype, kv_dtype)
        differences = []
        for tokens, rows in zip(SEQUENCES, run_schedule(executable, SEQUENCES, SCHEDULE), strict=True):
            positions = sorted(rows)
            got = np.stack([rows[position] for position in positions])
            expected = expected_logits(model, tokens)[positions]
            assert got.shape == expected.shape
            differences.append(np.abs(got - expected).max() / np.ptp(expected))
        return float(max(differences))

    return run


@pytest.mark.parametrize("name", CONFIGS)
def test_logits_are_those_of_transformers(name, tiny_model, largest_difference):
    tiny = tiny_model(name)
    assert largest_difference(tiny.path, tiny.model) < FLOAT32_KV


def test_float16_kv_cache_costs_little(tiny_model, largest_difference):
    tiny = tiny_model("llama")
    assert FLOAT32_KV < largest_difference(tiny.path, tiny.model, kv_dtype="float16") < FLOAT16_KV


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", ["llama3-tied", "qwen2-windows"])
def test_half_precision_shards(name, dtype, tiny_model, largest_difference):
    from_pretrained = transformers.AutoModelForCausalLM.from_pretrained
    path = tiny_model(name).path / dtype
    from_pretrained(tiny_model(name).path, dtype=dtype).save_pretrained(path, max_shard_size="30KB")
    assert len(list(path.glob("model-*.safetensors"))) > 2
    stored = from_pretrained(path, dtype="float32").eval()
    assert largest_difference(path, stored) < FLOAT32_KV
    assert largest_difference(path, stored, dtype="auto") < FLOAT32_KV


@pytest.mark.parametrize("quantisation", ["F32", "F16", "BF16"])
@pytest.mark.parametrize("name", ["llama-biases", "llama3-tied", "qwen2", "qwen3-yarn"])
def test_gguf_of_a_transformers_model(name, quantisation, tiny_model, tmp_path, largest_difference):
    """Metadata, tensor names, q and k rows and rope of a GGUF mean the model that it was made from."""
    model = tiny_model(name).model
    write_gguf(model, tmp_path / "model.gguf", GGMLQuantizationType[quantisation])
    tolerance = FLOAT32_KV if quantisation == "F32" else 0.02
    assert largest_difference(tmp_path / "model.gguf", model) < tolerance


@pytest.mark.parametrize("quantisation", ["Q8_0", "Q4_0", "Q4_1"])
@pytest.mark.parametrize("name", ["llama", "qwen2", "qwen3"])
def test_gguf_as_transformers_reads_it(name, quantisation, tiny_model, tmp_path, largest_difference):
    write_gguf(tiny_model(name).model, tmp_path / "model.gguf", GGMLQuantizationType[quantisation])
    overrides = {"head_dim": tiny_model(name).model.config.head_dim} if name == "qwen3" else {}
    dequantised = read_gguf(tmp_path / "model.gguf", **overrides)
    assert largest_difference(tmp_path / "model.gguf", dequantised) < FLOAT32_KV


def test_blocks_are_where_the_table_says(tiny_model, backend, compile_model):
    """The same logits wherever the blocks lie: bit for bit, on every backend."""
    _, executable = compile_model(tiny_model("mistral").path, backend)
    first = run_schedule(executable, SEQUENCES, SCHEDULE, seed=0)
    second = run_schedule(executable, SEQUENCES, SCHEDULE, seed=1)
    for one, other in zip(first, second, strict=True):
        assert one.keys() == other.keys()
        assert all(np.array_equal(one[position], other[position]) for position in one)
