"""Each processor against its definition, and repetition against transformers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import RepetitionPenaltyLogitsProcessor

from octavo.sampling.processors import process
from octavo.sampling.state import SamplingState
from octavo.sampling_params import SamplingParams

VOCAB = 64
EOS = [2, 9]
PROMPT = [5, 6, 7, 5]
OUTPUT = [7, 8, 8, 8, 40]


def row(seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(0, 3, VOCAB).astype(np.float32)


def processed(logits: NDArray[np.float32], output: list[int], **fields: Any) -> NDArray[np.float32]:
    return process(logits, SamplingState(SamplingParams(seed=0, **fields), PROMPT, output, EOS, VOCAB))


def test_nothing_asked_is_the_row_itself() -> None:
    logits = row()
    assert processed(logits, OUTPUT) is logits


def test_a_mask_keeps_the_tokens_of_its_bits() -> None:
    logits = row()
    state = SamplingState(SamplingParams(temperature=0.0), PROMPT, OUTPUT, EOS, VOCAB)
    state.mask = np.array([1 << 3 | 1 << 31, 1 << 8], dtype=np.uint32)
    assert not state.plain_greedy
    kept = np.flatnonzero(process(logits, state) > -np.inf)
    assert kept.tolist() == [3, 31, 40]
    np.testing.assert_array_equal(process(logits, state)[kept], logits[kept])


def test_the_input_is_left_alone() -> None:
    logits = row()
    before = logits.copy()
    processed(
        logits,
        OUTPUT,
        allowed_token_ids=[2, 3, 7],
        logit_bias={3: 1.0},
        min_tokens=9,
        repetition_penalty=1.3,
        frequency_penalty=0.5,
        presence_penalty=0.5,
    )
    np.testing.assert_array_equal(logits, before)


def test_allowed_tokens_keep_their_logits_and_the_others_lose_theirs() -> None:
    logits = row()
    result = processed(logits, OUTPUT, allowed_token_ids=[3, 60, 3])
    assert result[[3, 60]].tolist() == logits[[3, 60]].tolist()
    assert np.flatnonzero(result > -np.inf).tolist() == [3, 60]


def test_bias_is_added_but_cannot_bring_back_a_token_that_is_not_allowed() -> None:
    logits = row()
    result = processed(logits, OUTPUT, logit_bias={1: 2.5, 4: 100.0}, allowed_token_ids=[1, 2])
    assert result[1] == logits[1] + np.float32(2.5)
    assert result[4] == -np.inf


def test_min_tokens_forbids_every_end_token_until_they_are_out() -> None:
    fields: dict[str, Any] = {"min_tokens": 2, "stop_token_ids": [11], "logit_bias": {11: 100.0}}
    assert np.flatnonzero(processed(row(), [4], **fields) == -np.inf).tolist() == [2, 9, 11]
    assert np.isfinite(processed(row(), [4, 4], **fields)).all()


def test_ignore_eos_does_not_lift_min_tokens() -> None:
    """vLLM forbids the end tokens whether or not they would end the completion."""
    result = processed(row(), [], min_tokens=1, ignore_eos=True)
    assert np.flatnonzero(result == -np.inf).tolist() == [2, 9]


@pytest.mark.parametrize("penalty", [0.7, 1.3, 2.0])
def test_repetition_penalty_is_that_of_transformers(penalty: float) -> None:
    logits = row(3)
    expected = RepetitionPenaltyLogitsProcessor(penalty)(
        torch.tensor([PROMPT + OUTPUT]), torch.from_numpy(logits)[None]
    )[0]
    assert (logits[PROMPT + OUTPUT] > 0).any()
    assert (logits[PROMPT + OUTPUT] < 0).any()
    np.testing.assert_array_equal(processed(logits, OUTPUT, repetition_penalty=penalty), expected.numpy())


def test_frequency_and_presence_penalties_are_over_the_output_only() -> None:
    """The definition in OpenAI's API: mu[j] - c[j] * alpha_frequency - (c[j] > 0) * alpha_presence."""
    logits = row(4)
    counts = np.bincount(OUTPUT, minlength=VOCAB)
    expected = logits.astype(np.float64) - counts * 0.4 - (counts > 0) * 1.5
    result = processed(logits, OUTPUT, frequency_penalty=0.4, presence_penalty=1.5)
    np.testing.assert_allclose(result, expected, rtol=1e-6, atol=1e-6)
    assert result[6] == logits[6], "6 is in the prompt only"


def test_penalties_grow_with_each_appended_token() -> None:
    logits = row(5)
    state = SamplingState(SamplingParams(seed=0, frequency_penalty=1.0), PROMPT, [], EOS, VOCAB)
    gaps = []
    for _ in range(3):
        gaps.append(float(logits[30] - process(logits, state)[30]))
        state.append(30)
    assert gaps == pytest.approx([0.0, 1.0, 2.0], abs=1e-5)


def test_repetition_comes_before_the_other_penalties() -> None:
    logits = np.ones(VOCAB, dtype=np.float32)
    result = processed(logits, [8], repetition_penalty=2.0, presence_penalty=1.0)
    assert result[8] == np.float32(1.0 / 2.0 - 1.0)
    assert result[5] == np.float32(1.0 / 2.0)
