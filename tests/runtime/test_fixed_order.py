"""The order of sums against one addition after the other, and `exp` against more bits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from octavo.runtime import fixed_order


def summed(terms: list[np.float32]) -> np.float32:
    """As the module's docstring has it, one addition of two numbers at a time."""
    result = np.float32(0)
    for start in range(0, len(terms), 64):
        run = terms[start : start + 64]
        while len(run) > 1:
            half = max(power for power in (1, 2, 4, 8, 16, 32) if power < len(run))
            run = [run[i] + run[half + i] if half + i < len(run) else run[i] for i in range(half)]
        result = result + run[0]
    return result


def random(seed: int, *shape: int) -> np.ndarray:
    """Numbers of many magnitudes, so that any other order shows."""
    rng = np.random.default_rng(seed)
    return (rng.standard_normal(shape) * 2.0 ** rng.integers(-8, 8, shape)).astype(np.float32)


def bits(values: np.ndarray) -> list[int]:
    return np.ascontiguousarray(values).view(np.uint32).ravel().tolist()


@settings(deadline=None)
@given(st.integers(0, 9), st.integers(0, 200))
def test_total_adds_in_this_order(seed: int, count: int):
    rows = random(seed, 3, 2, count)
    got = fixed_order.total(rows)
    assert got.dtype == np.float32
    assert bits(got) == bits(np.array([summed(list(row)) for row in rows.reshape(6, count)], np.float32))


@settings(deadline=None)
@given(
    seed=st.integers(0, 9),
    num_rows=st.integers(1, 6),
    num_terms=st.integers(1, 150),
    num_cols=st.integers(1, 6),
    piece=st.sampled_from([1, 200, 1 << 18]),
)
def test_product_adds_in_this_order(seed: int, num_rows: int, num_terms: int, num_cols: int, piece: int):
    rows, matrix = random(seed, num_rows, num_terms), random(seed + 1, num_cols, num_terms).T
    expected = [[summed(list(row * column)) for column in matrix.T] for row in rows]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fixed_order, "_PIECE_TERMS", piece)
        got = fixed_order.product(rows, matrix)
    assert got.dtype == np.float32
    assert bits(got) == bits(np.array(expected, np.float32))


@given(st.integers(1, 200), st.integers(0, 200), st.integers(0, 3))
def test_zeros_around_change_nothing(count: int, after: int, runs_before: int):
    row = random(count, count)
    longer = np.concatenate([np.zeros(64 * runs_before), row, np.zeros(after)]).astype(np.float32)
    assert bits(fixed_order.total(longer)) == bits(fixed_order.total(row))


def test_no_sum_is_a_negative_zero():
    zeros = np.full((2, 3), -0.0, np.float32)
    assert not np.signbit(fixed_order.total(zeros)).any()
    assert not np.signbit(fixed_order.product(zeros, np.ones((3, 2), np.float32))).any()


def test_nothing_to_add_is_zero():
    ones = np.ones((3, 3), np.float32)
    assert fixed_order.product(ones[:2, :0], ones[:0]).tolist() == [[0, 0, 0]] * 2
    assert fixed_order.product(ones[:0], ones).shape == (0, 3)
    assert fixed_order.total(ones[:, :0]).tolist() == [0, 0, 0]


def test_exp_is_all_but_rounded_once():
    # As many as two pieces, and of every magnitude down to where float32 ends.
    x = -np.abs(np.concatenate([random(1, 30_000), np.linspace(0, 104, 3000, dtype=np.float32)]))
    exact = np.exp(x.astype(np.longdouble))
    got = fixed_order.exp(x)
    assert got.dtype == np.float32
    assert (np.abs(got - exact) / np.spacing(got)).max() < 0.51
    strided = fixed_order.exp(np.repeat(x, 3)[::3])
    assert bits(strided) == bits(got)


def test_exp_at_its_ends():
    got = fixed_order.exp(np.array([[0.0, -0.0], [-np.inf, np.nan]], np.float32))
    assert got[0].tolist() == [1, 1]
    assert got[1, 0] == 0
    assert np.isnan(got[1, 1])
