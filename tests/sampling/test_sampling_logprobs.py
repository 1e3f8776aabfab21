"""Log probabilities against torch."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from octavo.sampling.logprobs import log_softmax, prompt_logprobs, token_logprobs

torch.set_num_threads(1)

VOCAB = 3000


def rows(count: int) -> np.ndarray:
    return np.random.default_rng(0).normal(0, 5, (count, VOCAB)).astype(np.float32)


def test_log_softmax_is_that_of_torch() -> None:
    for row in [*rows(4), np.zeros(VOCAB, np.float32), np.full(VOCAB, 1e30, np.float32)]:
        expected = torch.log_softmax(torch.from_numpy(row).double(), dim=-1).numpy()
        np.testing.assert_allclose(log_softmax(row, np.arange(VOCAB)), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("count", [0, 1, 5, 100, -1])
def test_the_token_comes_first_then_the_most_likely(count: int) -> None:
    row = rows(1)[0]
    expected = torch.log_softmax(torch.from_numpy(row).double(), dim=-1)
    top = torch.topk(expected, VOCAB if count == -1 else count)
    result = token_logprobs(row, 77, count)
    assert result.token_ids == [77, *top.indices.tolist()]
    np.testing.assert_allclose(result.logprobs, [expected[77].item(), *top.values.tolist()], atol=1e-6)
    assert result.rank == 1 + int((expected > expected[77]).sum())


def test_rank_counts_only_tokens_strictly_more_likely() -> None:
    row = np.array([1, 3, 3, 3, 0], dtype=np.float32)
    assert [token_logprobs(row, token_id, 0).rank for token_id in range(5)] == [4, 1, 1, 1, 5]
    assert token_logprobs(row, 3, 2).token_ids == [3, 1, 2]


def test_masked_logits_have_no_probability() -> None:
    row = np.array([0.0, -np.inf, 0.0], dtype=np.float32)
    result = token_logprobs(row, 1, -1)
    assert result.token_ids == [1, 0, 2, 1]
    assert result.logprobs == pytest.approx([-math.inf, math.log(0.5), math.log(0.5), -math.inf])
    assert token_logprobs(np.full(3, -np.inf, np.float32), 0, 1).logprobs == [-math.inf, -math.inf]


def test_prompt_logprobs_score_each_token_under_its_row() -> None:
    logits = rows(6)
    logits[3, 5] = np.nan
    token_ids = np.array([9, 8, 7, 6, 5, 4], dtype=np.int32)
    result = prompt_logprobs(logits, token_ids, 2)
    clean = torch.from_numpy(np.nan_to_num(logits, nan=-np.inf)).double()
    expected = torch.log_softmax(clean, dim=-1)
    for position, each in enumerate(result):
        best = torch.topk(expected[position], 2).indices.tolist()
        assert each.token_ids == [token_ids[position], *best]
        assert each.logprobs[0] == pytest.approx(expected[position, token_ids[position]].item(), abs=1e-6)


def test_prompt_logprobs_do_not_depend_on_the_chunk() -> None:
    """Chunked prefill gives the rows in pieces; the numbers are the same bits."""
    logits, token_ids = rows(7), np.arange(7)
    whole = prompt_logprobs(logits, token_ids, 3)
    pieces = [
        *prompt_logprobs(logits[:3], token_ids[:3], 3),
        *prompt_logprobs(np.array(logits[3:]), token_ids[3:], 3),
    ]
    assert whole == pieces
