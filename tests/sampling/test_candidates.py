"""The distribution that is drawn from, against transformers and against the definitions, and draws from it.

Drawing by the inverse of the cumulative distribution is exact where the answer is known, and right in
distribution.
"""

from __future__ import annotations

import itertools
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from octavo.sampling.candidates import Candidates, candidates, draw, quantile
from octavo.sampling.rng import uniform
from octavo.sampling.weights import ONE, weigh
from octavo.sampling_params import SamplingParams

torch.set_num_threads(1)

LAST = 1 - 2.0**-53


def row(seed: int, vocab: int, spread: float = 3.0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(0, spread, vocab).astype(np.float32)


def distribution(logits: NDArray[np.float32], **fields: Any) -> NDArray[np.float64]:
    """`[V]` probabilities of the candidates."""
    found = candidates(logits, SamplingParams(seed=0, **fields))
    dense = np.zeros(len(logits))
    dense[slice(None) if found.token_ids is None else found.token_ids] = found.weights
    return dense / dense.sum()


def of_transformers(
    logits: NDArray[np.float32],
    temperature: float = 1.0,
    min_p: float = 0.0,
    top_k: int = 0,
    top_p: float = 1.0,
) -> NDArray[np.float64]:
    """The same by transformers' warpers in vLLM's order, in float64."""
    warpers = LogitsProcessorList([TemperatureLogitsWarper(temperature)])
    if min_p:
        warpers.append(MinPLogitsWarper(min_p))
    if top_k:
        warpers.append(TopKLogitsWarper(top_k))
    if top_p < 1.0:
        warpers.append(TopPLogitsWarper(top_p))
    scores = warpers(torch.zeros(1, 1, dtype=torch.long), torch.from_numpy(logits).double()[None])
    return torch.softmax(scores[0], dim=-1).numpy()


@pytest.mark.parametrize("vocab", [5, 1000, 20000])
@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"temperature": 0.3},
        {"temperature": 1.7},
        {"top_k": 1},
        {"top_k": 3},
        {"top_k": 50},
        {"top_k": 10**6},
        {"top_p": 0.1},
        {"top_p": 0.9},
        {"top_p": 0.999, "temperature": 2.0},
        {"min_p": 0.05},
        {"min_p": 1.0},
        {"top_k": 40, "top_p": 0.8},
        {"min_p": 0.1, "top_p": 0.7},
        {"temperature": 0.7, "min_p": 0.02, "top_k": 30, "top_p": 0.9},
    ],
    ids=str,
)
def test_same_distribution_as_transformers(vocab: int, fields: dict[str, Any]) -> None:
    for seed in range(3):
        logits = row(seed, vocab)
        expected = of_transformers(logits, **fields)
        # A token less than 2^-40 times as likely as the most likely one is never drawn.
        expected[expected < expected.max() * 2.0**-40] = 0
        np.testing.assert_array_equal(distribution(logits, **fields) > 0, expected > 0)
        np.testing.assert_allclose(distribution(logits, **fields), expected, rtol=1e-5, atol=1e-12)


@given(st.integers(0, 2**32 - 1), st.floats(0.01, 1.0), st.floats(0.0, 6.0), st.floats(0.1, 2.0))
@settings(max_examples=60, deadline=None)
def test_nucleus_is_the_shortest_prefix_that_holds_top_p(
    seed: int, top_p: float, spread: float, temperature: float
) -> None:
    """From a nucleus of one token to one of thousands, so through each size that is tried."""
    logits = row(seed, 12000, spread)
    found = candidates(logits, SamplingParams(seed=0, top_p=top_p, temperature=temperature))
    order = np.argsort(-logits, kind="stable")
    scaled = (logits[order].astype(np.float64) - logits.max()) / temperature
    mass = np.cumsum(np.exp(scaled)) / np.exp(scaled).sum()
    if found.token_ids is None:
        assert top_p == 1.0
        return
    count = len(found.token_ids)
    np.testing.assert_array_equal(found.token_ids, np.sort(order[:count]))
    rounding = 1e-6
    assert mass[count - 1] >= top_p - rounding
    assert count == 1 or mass[count - 2] < top_p + rounding


def test_ties_are_cut_by_token_id() -> None:
    flat = np.zeros(3000, dtype=np.float32)
    assert np.flatnonzero(distribution(flat, top_k=5)).tolist() == [0, 1, 2, 3, 4]
    assert np.flatnonzero(distribution(flat, top_p=0.5)).tolist() == list(range(1500))
    assert np.count_nonzero(distribution(flat, min_p=1.0)) == 3000


def test_masked_tokens_stay_out() -> None:
    logits = np.full(5000, -np.inf, dtype=np.float32)
    logits[[17, 4000]] = [1.0, 2.0]
    for fields in ({}, {"top_k": 10}, {"top_p": 0.99}, {"min_p": 0.01}, {"top_k": 10, "top_p": 0.99}):
        assert np.flatnonzero(distribution(logits, **fields)).tolist() == [17, 4000], fields


def test_top_p_always_keeps_a_token() -> None:
    assert np.count_nonzero(distribution(row(0, 1000, 0.01), top_p=1e-6)) == 1


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
