"""The order of tokens against a stable sort."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from octavo.sampling.logits import leading


def by_stable_sort(logits: NDArray[np.float32]) -> NDArray[np.intp]:
    return np.argsort(-logits.astype(np.float64), kind="stable")


@st.composite
def rows(draw: st.DrawFn) -> NDArray[np.float32]:
    """A row with or without ties, masked tokens and a wide spread."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    logits = rng.normal(0, 1, draw(st.integers(1, 20000))) * draw(st.sampled_from([0.0, 0.5, 4.0, 1e30]))
    decimals = draw(st.sampled_from([None, 1, 0]))
    if decimals is not None:
        logits = logits.round(decimals)
    logits[rng.random(len(logits)) < draw(st.floats(0, 1))] = -np.inf
    return logits.astype(np.float32)


@given(rows(), st.integers(1, 600))
@settings(max_examples=150, deadline=None)
def test_leading_is_a_prefix_of_the_order(row: NDArray[np.float32], count: int) -> None:
    np.testing.assert_array_equal(leading(row, count), by_stable_sort(row)[:count])


def test_special_values() -> None:
    largest, smallest = np.finfo(np.float32).max, np.finfo(np.float32).smallest_subnormal
    row = np.array(
        [-0.0, 0.0, -np.inf, smallest, -smallest, largest, -largest, 1.0, -np.inf, 0.0], dtype=np.float32
    )
    assert leading(row, 10).tolist() == [5, 7, 3, 0, 1, 9, 4, 6, 2, 8]


@pytest.mark.parametrize("stride", [1024, 1200])
def test_the_largest_logits_all_in_one_column_of_the_fold(stride: int) -> None:
    """The worst case for the threshold, which then lies below many logits."""
    row = np.random.default_rng(0).normal(0, 1, 49152).astype(np.float32)
    row[::stride] += 50
    np.testing.assert_array_equal(leading(row, 300), by_stable_sort(row)[:300])
