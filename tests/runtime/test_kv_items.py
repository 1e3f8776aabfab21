"""The KV cache's types against torch's, and integers within half a step of their scale."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from octavo.runtime.kv_items import KV_CACHE_DTYPES, decode, encode, vector_bytes

TORCH = {
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float32": torch.float32,
    "fp8": torch.float8_e4m3fn,
}
RNG = np.random.default_rng(5)
# Every magnitude: subnormal in each type, ties, and beyond what fp8 and float16 hold.
VECTORS = (RNG.standard_normal((400, 24)) * 2.0 ** RNG.integers(-30, 20, (400, 1))).astype(np.float32)
EVERY_HALF = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32)
EVERY_HALF = EVERY_HALF[np.isfinite(EVERY_HALF)].reshape(-1, 32)


@pytest.mark.parametrize("dtype", TORCH)
@pytest.mark.parametrize("vectors", [VECTORS, EVERY_HALF], ids=["scaled", "every float16"])
def test_floats_round_as_torch_does(dtype: str, vectors: np.ndarray):
    limit = torch.finfo(TORCH[dtype]).max
    expected = torch.tensor(vectors).clamp(-limit, limit).to(TORCH[dtype])
    data = encode(vectors, dtype)
    assert data.shape == (len(vectors), vector_bytes(dtype, vectors.shape[-1]))
    np.testing.assert_array_equal(data, expected.view(torch.uint8).numpy())
    np.testing.assert_array_equal(decode(data, dtype), expected.float().numpy())


@given(st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=40))
def test_int8_is_within_half_a_step(values: list[float]):
    vector = np.array([values], np.float32)
    got = decode(encode(vector, "int8"), "int8")
    finite = np.clip(vector, -(2.0**127), 2.0**127).astype(np.float64)
    step = np.abs(finite).max() / 127
    # Below 2^-120 the scale itself has few bits.
    assert np.abs(got - finite).max() <= step * 0.5001 + 2.0**-126
    assert np.isfinite(got).all()


@given(st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=40), st.booleans())
def test_int16_is_within_half_a_step_and_its_products_fit_32_bits(values: list[float], keys: bool):
    vector = np.array([values], np.float32)
    data = encode(vector, "int16", "keys" if keys else "values")
    items = data[:, :-4].view(np.int16).astype(np.int64)
    assert np.abs(items).max() <= (32767 if keys else 16383)
    if keys:
        assert (items**2).sum() < 2**31
    bounded = np.clip(vector, -(2.0**100), 2.0**100).astype(np.float64)
    step = max(np.abs(bounded).max() / 16383, np.sqrt((bounded**2).sum()) / 46300)
    assert np.abs(decode(data, "int16") - bounded).max() <= step * 0.51 + 2.0**-100


@pytest.mark.parametrize("dtype", KV_CACHE_DTYPES)
def test_what_was_read_is_written_back_unchanged(dtype: str):
    small = VECTORS[np.abs(VECTORS).max(axis=1) < 1e4]
    once = decode(encode(small, dtype), dtype)
    assert once.dtype == np.float32
    np.testing.assert_allclose(decode(encode(once, dtype), dtype), once, rtol=1e-6)
