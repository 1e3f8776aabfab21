"""Normalised weights against the values that they had: exactly, or within what the module's table says."""

from __future__ import annotations

import numpy as np
import pytest
from gguf import GGMLQuantizationType
from support.k_quant_writer import quantise

from octavo.formats.codebook_quants import FP4_FLOATS, FP4_STEPS, MXFP4_TABLE, NF4_FLOATS, NF4_STEPS
from octavo.formats.groups import Groups
from octavo.formats.normalise import RUNS, normalise, runs_as
from octavo.formats.raw_array import E4M3
from octavo.formats.tensor import CHUNK_VALUES, Encoding, Tensor
from octavo.formats.weight import QuantisedWeight

EXACT = {"Q3_K": "Q8_0"}
ROUNDED_SCALES = {"Q8_K": "Q8_0"}
ROUNDING = 2**-11
SMALL = 2**-25
"""What rounding a number costs that is subnormal in float16, beside larger ones."""

SHAPE = (700, 512)  # more than two chunks, the last one shorter


def stored(kind: str, scale: float = 1.0) -> Tensor:
    """Random values, some rows a thousand times smaller than others, in an encoding."""
    rng = np.random.default_rng(7)
    values = rng.normal(size=SHAPE) * scale * 10.0 ** -rng.integers(0, 4, (SHAPE[0], 1))
    if kind == "Q8_K":
        scales = np.abs(values.reshape(-1, 256)).max(axis=1, keepdims=True).astype(np.float32) / 127
        codes = np.rint(values.reshape(-1, 256) / scales).astype(np.int8)
        parts = [scales, codes, codes.reshape(-1, 16, 16).sum(axis=2, dtype=np.int16)]
        data = np.concatenate([each.view(np.uint8) for each in parts], axis=1)
    else:
        data = quantise(values.astype(np.float32), GGMLQuantizationType[kind])
    return Tensor(SHAPE, Encoding(kind), data.reshape(-1))


def test_every_encoding_is_covered():
    assert SHAPE[0] * SHAPE[1] > 2 * CHUNK_VALUES
    changed = {each.value for each in Encoding if each not in RUNS}
    assert changed == EXACT.keys() | ROUNDED_SCALES.keys()


@pytest.mark.parametrize("encoding", sorted(RUNS, key=lambda each: each.value))
def test_what_runs_is_not_copied(encoding):
    size = 512 // encoding.group_size * encoding.group_bytes
    data = np.full(size, 127 if encoding is Encoding.MXFP4 else 0, np.uint8)
    tensor = Tensor((2, 256), encoding, data)
    assert normalise(tensor) is tensor


@pytest.mark.parametrize("kind", EXACT)
def test_exact_forms(kind):
    tensor = stored(kind)
    normalised = normalise(tensor)
    assert normalised.encoding is runs_as(tensor) is Encoding(EXACT[kind])
    assert np.array_equal(normalised.to_float32(), tensor.to_float32())


@pytest.mark.parametrize("kind", ROUNDED_SCALES)
def test_rounded_scales(kind):
    """Both terms of a value keep 11 bits: scale times code, and the minimum."""
    tensor = stored(kind)
    normalised = normalise(tensor)
    assert normalised.encoding is runs_as(tensor) is Encoding(ROUNDED_SCALES[kind])
    difference = normalised.to_float32() - tensor.to_float32()
    assert difference.any()
    terms = np.concatenate([_terms(chunk) for chunk in tensor.chunks()])
    assert (np.abs(difference) <= ROUNDING * terms + 127 * SMALL).all()


def _terms(groups: Groups) -> np.ndarray:
    minimums = 0 if groups.minimums is None else np.abs(groups.minimums[:, :, None])
    terms = np.abs(groups.codes * groups.scales[:, :, None]) + minimums
    return terms.reshape(len(terms), -1)


@pytest.mark.parametrize(("kind", "scale", "expected"), [
    ("Q8_K", 1e8, "F32"), ("Q8_K", 1e4, "Q8_0"), ("Q8_K", 1e-3, "F16"), ("Q8_K", 1e-9, "F32"),
    ("MXFP4", 1e6, "F32"), ("MXFP4", 1, "MXFP4"), ("MXFP4", 1e-9, "F32"),
    ("Q2_K", 1e5, "F32"), ("Q2_K", 1e-5, "Q2_K"),
    ("Q4_K", 1e5, "F32"), ("Q4_K", 1e-5, "Q4_K"), ("Q5_K", 1e5, "F32"), ("Q5_K", 1e-5, "Q5_K"),
    ("Q6_K", 1e6, "F32"), ("Q6_K", 1e-4, "Q6_K"), ("IQ4_XS", 1e7, "F32"), ("IQ4_XS", 1e-4, "IQ4_XS"),
])  # fmt: skip
def test_numbers_outside_float16(kind, scale, expected):
    """Scales that float16 cannot hold leave it to the values, and those to float32."""
    tensor = stored(kind, scale)
    normalised = normalise(tensor)
    assert normalised.encoding is Encoding(expected)
    atol = 0 if expected == "F32" else 127 * SMALL
    assert np.allclose(normalised.to_float32(), tensor.to_float32(), rtol=ROUNDING, atol=atol)


def test_mxfp4_of_another_layout():
    """Every code but the negative zero, with scales from the smallest that float16 has whole."""
    codes = np.tile(np.delete(MXFP4_TABLE, 8), 64)[: 20 * 32].reshape(20, 1, 32)
    scales = np.ldexp(np.float32(1), np.arange(-14, 6)).reshape(20, 1)
    weight = QuantisedWeight(
        (20, 32), "test", Encoding.MXFP4, 0, lambda rows: Groups(codes[rows], scales[rows])
    )
    assert normalise(weight).encoding is Encoding.MXFP4
    assert np.array_equal(normalise(weight).to_float32(), weight.to_float32())


@pytest.mark.parametrize(("encoding", "table", "steps"), [
    (Encoding.NF4, NF4_FLOATS, NF4_STEPS), (Encoding.FP4, FP4_FLOATS, FP4_STEPS),
])  # fmt: skip
def test_tables_of_floats(encoding, table, steps):
    """Every value becomes the nearest of so many steps, or the code's, times a scale of 11 bits."""
    rng = np.random.default_rng(5)
    codes = rng.permutation(np.tile(table, 20 * 4 * 4)).reshape(20, 4, 64)
    scales = rng.uniform(0.01, 3, (20, 4)).astype(np.float32)
    weight = QuantisedWeight((20, 256), "test", encoding, 0, lambda rows: Groups(codes[rows], scales[rows]))
    normalised = normalise(weight)
    assert normalised.encoding is encoding
    sizes = np.repeat(scales, 64, axis=1)
    exact = np.rint(weight.to_float32() / sizes * steps) * sizes / steps
    np.testing.assert_allclose(normalised.to_float32(), exact, rtol=2**-10)
    assert np.abs(normalised.to_float32() - weight.to_float32()).max() < np.abs(scales).max() / 250


def test_float8():
    """Exact, whatever the scales; with a NaN the values are float32."""
    values = np.concatenate([E4M3[:127], E4M3[128:255]])
    codes = np.tile(values, 3)[:640].reshape(5, 2, 64)
    scales = np.array([1e-30, 1, 1e10, -0.3, 7], np.float32).reshape(5, 1).repeat(2, axis=1)
    weight = QuantisedWeight(
        (5, 128), "test", Encoding.F8_E4M3, 0, lambda rows: Groups(codes[rows], scales[rows])
    )
    assert normalise(weight).encoding is Encoding.F8_E4M3
    assert np.array_equal(normalise(weight).to_float32(), weight.to_float32())
    codes[3, 1, 5], scales[:] = np.nan, 1
    assert normalise(weight).encoding is Encoding.F32
    assert np.array_equal(normalise(weight).to_float32(), weight.to_float32(), equal_nan=True)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_numbers_that_are_none(value):
    """A broken scale stays one: nothing is made up in its place."""
    scales = np.array([[1.0], [value]], np.float32)
    codes = np.ones((2, 1, 32), np.int8)
    weight = QuantisedWeight(
        (2, 32), "test", Encoding.Q8_0, 0, lambda rows: Groups(codes[rows], scales[rows])
    )
    assert np.array_equal(normalise(weight).to_float32(), weight.to_float32(), equal_nan=True)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("size", [32, 64, 128])
def test_codes_without_zero_points(bits, size):
    rng = np.random.default_rng(size)
    half = 1 << (bits - 1)
    codes = rng.integers(-half, half, (20, 256 // size, size)).astype(np.int8)
    scales = rng.normal(size=(20, 256 // size)).astype(np.float16).astype(np.float32)
    form = Encoding.Q4_0 if bits == 4 else Encoding.Q8_0
    weight = QuantisedWeight((20, 256), "test", form, 0, lambda rows: Groups(codes[rows], scales[rows]))
    assert normalise(weight).encoding is form
    assert np.array_equal(normalise(weight).to_float32(), weight.to_float32())


def test_4_bit_codes_with_zero_points():
    """The minimum, at most 15 steps, is rounded by 1/2048 of itself at most."""
    rng = np.random.default_rng(5)
    codes = rng.integers(0, 16, (20, 4, 64)).astype(np.uint8)
    scales = rng.normal(size=(20, 4)).astype(np.float16).astype(np.float32)
    zeros = rng.integers(0, 16, (20, 4)).astype(np.uint8)

    def read(rows: slice) -> Groups:
        return Groups(codes[rows], scales[rows], zeros=zeros[rows])

    weight = QuantisedWeight((20, 256), "test", Encoding.Q4_1, 0, read)
    assert normalise(weight).encoding is Encoding.Q4_1
    steps = np.repeat(np.abs(scales), 64, axis=1)
    difference = np.abs(normalise(weight).to_float32() - weight.to_float32()) / steps
    assert 0 < difference.max() <= 15 * ROUNDING
