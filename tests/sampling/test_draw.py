"""Inverse-CDF drawing: exact where the answer is known, and in distribution."""

from __future__ import annotations

import itertools
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from octavo.sampling.candidates import Candidates, candidates
from octavo.sampling.draw import draw, quantile
from octavo.sampling.rng import uniform
from octavo.sampling.weights import ONE, weigh
from octavo.sampling_params import SamplingParams

LAST = 1 - 2.0**-53


@given(st.lists(st.integers(0, ONE), min_size=1, max_size=1500).filter(any), st.integers(0, 2**53 - 1))
@settings(max_examples=200, deadline=None)
def test_quantile_is_the_first_index_past_u(weights: list[int], numerator: int) -> None:
    """Exactly that of the definition, in rational arithmetic."""
    u = Fraction(numerator, 2**53)
    ends = itertools.accumulate(weights)
    expected = next(i for i, end in enumerate(ends) if end > u * sum(weights))
    assert quantile(np.array(weights, dtype=np.int64), float(u)) == expected


@given(st.integers(0, 2**32 - 1), st.integers(1, 5000), st.sampled_from([0.0, 0.5, LAST]), st.floats(0, 0.99))
@settings(deadline=None)
def test_a_token_without_weight_is_never_drawn(seed: int, size: int, u: float, masked: float) -> None:
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 20, size).astype(np.float32)
    weights = weigh(logits, logits.max())
    weights[rng.random(size) < masked] = 0
    weights[rng.integers(size)] = 1
    assert weights[quantile(weights, u)] > 0


@pytest.mark.parametrize("size", [1, 255, 3000])
def test_the_ends_of_the_interval(size: int) -> None:
    weights = np.full(size, ONE)
    assert quantile(weights, 0.0) == 0
    assert quantile(weights, LAST) == size - 1


def test_a_drawn_index_is_turned_into_a_token_id() -> None:
    found = Candidates(np.array([5, 9, 70]), np.array([2, 1, 1]))
    assert [draw(found, u) for u in (0.0, 0.49, 0.5, 0.74, 0.75, LAST)] == [5, 5, 9, 9, 70, 70]


@pytest.mark.parametrize("fields", [{}, {"top_p": 0.9}, {"top_k": 12}, {"min_p": 0.05}], ids=str)
def test_frequencies_follow_the_softmax(fields: dict[str, float]) -> None:
    """Chi-square of 20,000 positions' tokens over a 600-token row with a 0.8 temperature."""
    logits = np.random.default_rng(2).normal(0, 3, 600).astype(np.float32)
    params = SamplingParams(seed=11, temperature=0.8, **fields)  # type: ignore[arg-type]
    found = candidates(logits, params)
    count = 20000
    drawn = np.bincount([draw(found, uniform(11, position)) for position in range(count)], minlength=600)

    kept = np.arange(600) if found.token_ids is None else found.token_ids
    probabilities = np.zeros(600)
    probabilities[kept] = np.exp(logits[kept].astype(np.float64) / 0.8) * (found.weights > 0)
    probabilities /= probabilities.sum()
    assert not drawn[probabilities == 0].any()
    expected = probabilities * count
    usual = expected >= 5
    observed = np.append(drawn[usual], drawn[~usual].sum())
    expected = np.append(expected[usual], expected[~usual].sum())
    chi_square = ((observed - expected) ** 2 / np.maximum(expected, 1e-9)).sum()
    freedom = len(observed) - 1
    assert chi_square < freedom + 5 * np.sqrt(2 * freedom)
