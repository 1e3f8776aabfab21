"""Rounding to int8, int4 and FP8 against NumPy, gguf-py, torch, and the error of simpler rounding."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from support import numpy_rounding

from octavo import _native
from octavo.formats import rounding
from octavo.formats.normalise import pack
from octavo.formats.raw_array import E4M3
from octavo.formats.rounding import (
    FloatRows,
    encode_e4m3,
    float8_groups,
    float8_rows,
    nearest_e4m3,
    round_float8,
    round_int4,
    round_int4_minimums,
    round_int4_zero_points,
    round_int8,
    round_rows,
    round_to_panels,
)
from octavo.formats.tensor import Encoding, Tensor
from octavo.machine.isa import available_isas


def weights(rows=64, cols=256, seed=0):
    """As heavy-tailed as those of a model."""
    return np.random.default_rng(seed).standard_t(5, (rows, cols)).astype(np.float32) * np.float32(0.02)


def error(rounded, values, importance=1.0):
    return float((np.square(rounded.values() - values) * importance).sum())


@pytest.fixture(params=available_isas())
def isa(request, monkeypatch):
    monkeypatch.setattr(rounding, "_native", lambda: (_native, request.param))


def awkward(seed):
    """Rows from the smallest that float16 scales hold to large ones, with runs of zeros, ties and equals."""
    rng = np.random.default_rng(seed)
    values = weights(24, 384, seed) * 10.0 ** rng.uniform(-6, 4, (24, 1)).astype(np.float32)
    values[3, 64:200] = 0
    values[4] = np.round(values[4] / np.abs(values[4]).max() * 16)
    values[5, 1::2] = -values[5, ::2]
    values[6] = np.abs(values[6])
    return values.astype(np.float32)


def assert_same(ours, theirs):
    for mine, other in (
        (ours.codes, theirs.codes),
        (ours.scales, theirs.scales),
        (ours.zeros, theirs.zeros),
        (ours.minimums, theirs.minimums),
    ):
        assert (mine is None) == (other is None)
        if mine is not None:
            assert mine.dtype == other.dtype
            assert mine.shape == other.shape
            assert mine.tobytes() == other.tobytes()


@pytest.mark.parametrize("size", [32, 64, 128])
@pytest.mark.parametrize("seed", range(3))
def test_every_tier_gives_what_numpy_does_to_the_bit(isa, size, seed):
    values = awkward(seed)
    importance = np.random.default_rng(seed).exponential(size=values.shape[1]).astype(np.float32)
    assert_same(round_int8(values, size), numpy_rounding.round_int8(values, size))
    for name in ("round_int4", "round_int4_zero_points", "round_int4_minimums"):
        ours, theirs = getattr(rounding, name), getattr(numpy_rounding, name)
        assert_same(ours(values, size), theirs(values, size))
        assert_same(ours(values, size, importance), theirs(values, size, importance))
    assert_same(float8_groups(values), numpy_rounding.float8_groups(values))


def test_halves_are_read_and_scaled(isa):
    values = weights(24, 96)
    columns, rows = np.linspace(0.1, 3, 96, dtype=np.float32), np.linspace(-2, 2, 24, dtype=np.float32)
    bfloat16 = (values.view(np.uint32) >> 16).astype(np.uint16)
    for encoding, data in ((Encoding.F16, values.astype(np.float16)), (Encoding.BF16, bfloat16)):
        tensor = Tensor(values.shape, encoding, data.view(np.uint8).reshape(-1))
        scaled = tensor.to_float32() * columns * rows[:, None]
        ours = round_rows("int4", FloatRows(encoding.value, tensor.data, 96, columns, rows), 32)
        assert_same(ours, numpy_rounding.round_int4(scaled))


@pytest.mark.parametrize(
    ("name", "encoding", "round_values"),
    [
        ("int8", Encoding.Q8_0, numpy_rounding.round_int8),
        ("int4", Encoding.Q4_0, numpy_rounding.round_int4),
        ("int4-minimums", Encoding.Q4_1, numpy_rounding.round_int4_minimums),
        ("fp8", Encoding.F8_E4M3, numpy_rounding.float8_groups),
    ],
)
def test_panels_are_those_of_the_rounded_tensor(isa, name, encoding, round_values):
    values = weights(40, 96)
    order = np.random.default_rng(1).permutation(40).astype(np.int32)
    blocks = pack(round_values(values[order]), encoding).reshape(-1)
    expected = np.zeros(3 * _native.panel_bytes(encoding.value, 96), np.uint8)
    _native.Program(1, "portable").pack(encoding.value, 40, 96, blocks, 0, expected)
    panels = np.full_like(expected, 255)
    round_to_panels(name, FloatRows.of(values), panels, order=order)
    assert np.array_equal(panels, expected)


def test_arrays_that_do_not_fit_are_refused():
    data, none = np.zeros(64 * 4, np.uint8), np.empty(0, np.float32)
    out, order = np.empty(_native.panel_bytes("Q8_0", 64), np.uint8), np.empty(0, np.int32)

    def call(*, data=data, cols=64, factors=none, order=order, out=out):
        _native.round_to_panels("portable", "int8", "F32", data, cols, none, factors, none, order, out)

    call()
    for wrong in (
        {"data": data[:-4]},
        {"cols": 48},
        {"cols": 0},
        {"factors": np.zeros(2, np.float32)},
        {"order": np.array([1], np.int32)},
        {"order": np.array([0, 0], np.int32)},
        {"out": out[:-1]},
    ):
        with pytest.raises(ValueError, match=r"rows|factors|out"):
            call(**wrong)


def test_int8_is_as_near_as_gguf_py():
    values = weights()
    theirs = gguf.dequantize(
        gguf.quantize(values, GGMLQuantizationType.Q8_0), GGMLQuantizationType.Q8_0
    ).reshape(values.shape)
    ours = round_int8(values)
    assert np.abs(ours.values() - values).max() <= np.abs(theirs - values).max() * 1.001
    assert error(ours, values) <= np.square(theirs - values).sum() * 1.001


@pytest.mark.parametrize("size", [32, 64, 128])
def test_int4_search_beats_the_largest_value_alone(size):
    values = weights()
    groups = values.reshape(-1, size)
    largest = groups[np.arange(len(groups)), np.abs(groups).argmax(axis=1)][:, None] / -8
    plain = np.clip(np.rint(groups / largest), -8, 7) * largest
    assert error(round_int4(values, size), values) < 0.97 * np.square(plain - groups).sum()


def test_int4_beats_gguf_py():
    values = weights()
    kind = GGMLQuantizationType.Q4_0
    theirs = gguf.dequantize(gguf.quantize(values, kind), kind).reshape(values.shape)
    assert error(round_int4(values), values) < 0.97 * np.square(theirs - values).sum()


def test_int4_with_zero_points_suits_values_to_one_side():
    values = np.abs(weights())
    assert error(round_int4_zero_points(values), values) < 0.5 * error(round_int4(values), values)
    assert round_int4_zero_points(values).codes.dtype == np.uint8


@pytest.mark.parametrize("round_values", [round_int4, round_int4_zero_points])
def test_importance_moves_the_error_to_other_columns(round_values):
    values = weights(cols=128)
    importance = np.where(np.arange(128) % 4 == 0, np.float32(100), np.float32(1))
    assert error(round_values(values, 32, importance), values, importance) < 0.9 * error(
        round_values(values), values, importance
    )


@given(
    arrays.arrays(
        np.float32, (3, 64), elements=st.floats(-1e4, 1e4, width=32, allow_subnormal=False).filter(
            lambda value: value == 0 or abs(value) > 1e-2
        )
    )
)  # fmt: skip
def test_no_value_is_further_off_than_a_step(values):
    eight, four, zeros = round_int8(values), round_int4(values), round_int4_zero_points(values)
    for rounded, steps in ((eight, 0.51), (four, 1.6), (zeros, 4.0)):
        step = np.abs(rounded.scales)[..., None]
        missed = np.abs(rounded.values() - values).reshape(rounded.codes.shape)
        assert (missed <= step * steps + np.abs(values).max() * 1e-3).all()
        assert rounded.codes.dtype.itemsize == 1


def test_scales_are_float16_numbers():
    values = weights()
    for rounded in (round_int8(values), round_int4(values), round_int4_zero_points(values)):
        assert np.array_equal(rounded.scales, rounded.scales.astype(np.float16).astype(np.float32))


def test_every_e4m3_code_and_everything_between():
    grid = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).float().numpy()
    grid = grid[np.isfinite(grid)]
    between = np.concatenate([grid, np.linspace(-500, 500, 20001, dtype=np.float32), weights().ravel()])
    halves = np.sort(grid)
    between = np.concatenate([between, (halves[1:] + halves[:-1]) / 2, np.geomspace(2**-12, 448, 5000)])
    between = between.astype(np.float32)
    clipped = torch.from_numpy(np.clip(between, -448, 448))
    expected = clipped.to(torch.float8_e4m3fn).view(torch.uint8).numpy()
    assert np.array_equal(encode_e4m3(between), expected)
    assert np.array_equal(nearest_e4m3(between), clipped.to(torch.float8_e4m3fn).float().numpy())


def test_float8_rows():
    values = weights()
    codes, scales = round_float8(values)
    assert np.allclose(np.abs(values).max(axis=1, keepdims=True), scales * 448)
    assert (np.abs(float8_rows(values).values() - values) <= np.abs(values) / 16 + scales * 2**-9).all()
    assert codes.dtype == np.uint8


def test_float8_groups():
    """Numbers of E4M3 all, and nearer than those of a row, and than with any one place of the largest."""
    values = weights()
    groups = float8_groups(values)
    assert groups.codes.shape[2] == 32
    assert np.array_equal(groups.codes, E4M3[encode_e4m3(groups.codes)])

    def error(rounded):
        return np.square(rounded - values).sum()

    most = np.abs(values.reshape(len(values), -1, 32)).max(axis=2, keepdims=True) / 448
    tried = [
        (nearest_e4m3(values.reshape(len(values), -1, 32) / (most * 2**shift)) * most * 2**shift).reshape(
            values.shape
        )
        for shift in (0, 0.25, 0.5, 0.75)
    ]
    assert error(groups.values()) < 0.7 * error(float8_rows(values).values())
    assert error(groups.values()) < 0.9 * min(error(each) for each in tried)


@pytest.mark.parametrize(
    "round_values",
    [round_int8, round_int4, round_int4_zero_points, round_int4_minimums, float8_rows, float8_groups],
)
def test_zeros_and_what_is_not_finite(round_values):
    assert (round_values(np.zeros((2, 64), np.float32)).values() == 0).all()
    for value in (np.inf, np.nan):
        broken = np.zeros((2, 64), np.float32)
        broken[1, 3] = value
        with pytest.raises(ValueError, match="not finite"), np.errstate(all="ignore"):
            round_values(broken)


@pytest.mark.parametrize(
    "round_values", [round_int8, round_int4, round_int4_zero_points, round_int4_minimums]
)
def test_scales_that_float16_cannot_hold(round_values):
    broken = weights()
    broken[1, 3] = 1e8
    with pytest.raises(ValueError, match="too large for a float16 scale"):
        round_values(broken)
