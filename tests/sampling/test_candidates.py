"""The distribution that is drawn from, against transformers and against the definitions."""

from __future__ import annotations

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

from octavo.sampling.candidates import candidates
from octavo.sampling_params import SamplingParams

torch.set_num_threads(1)


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
