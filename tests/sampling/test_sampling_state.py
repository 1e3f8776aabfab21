"""What a sequence's sampling state checks and remembers."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from octavo.sampling.state import SamplingState, check_token_ids
from octavo.sampling_params import SamplingParams

VOCAB = 50
EOS = [2]


def make(params: SamplingParams, prompt: list[int], output: list[int]) -> SamplingState:
    return SamplingState(params, prompt, output, EOS, VOCAB)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"logit_bias": {VOCAB: 1.0}}, r"logit_bias must hold token ids .* 0 to 49; got 50"),
        ({"allowed_token_ids": [3, 99]}, r"allowed_token_ids must hold .*; got 99"),
        ({"allowed_token_ids": [-1]}, r"allowed_token_ids must hold .*; got -1"),
        ({"stop_token_ids": [50]}, r"stop_token_ids must hold .*; got 50"),
        ({"allowed_token_ids": [2, 7], "stop_token_ids": [7], "min_tokens": 1}, r"allowed_.* min_tokens=1"),
    ],
)
def test_token_ids_the_model_does_not_have(fields: dict[str, Any], message: str) -> None:
    params = SamplingParams(seed=0, **fields)
    with pytest.raises(ValueError, match=message):
        check_token_ids(params, VOCAB, EOS)
    with pytest.raises(ValueError, match=message):
        make(params, [1], [])


def test_token_ids_at_the_edges_are_fine() -> None:
    fields: dict[str, Any] = {
        "logit_bias": {0: 1.0, VOCAB - 1: -1.0},
        "allowed_token_ids": [0, VOCAB - 1],
        "stop_token_ids": [0],
    }
    check_token_ids(SamplingParams(min_tokens=3, **fields), VOCAB, EOS)


def test_a_penalty_needs_prompt_tokens_of_the_vocabulary() -> None:
    with pytest.raises(ValueError, match="prompt_token_ids"):
        make(SamplingParams(seed=0, repetition_penalty=1.5), [VOCAB], [])


def test_sampling_needs_a_seed_and_greedy_does_not() -> None:
    with pytest.raises(ValueError, match="seed"):
        make(SamplingParams(), [1], [])
    assert make(SamplingParams(temperature=0), [1], []).plain_greedy


@given(st.lists(st.integers(0, VOCAB - 1)), st.lists(st.integers(0, VOCAB - 1)), st.integers(0, 20))
def test_resumed_is_as_appended(prompt: list[int], output: list[int], split: int) -> None:
    """A state that is given its output tokens is the one that was appended them."""
    params = SamplingParams(seed=5, repetition_penalty=1.2, frequency_penalty=0.3, min_tokens=4)
    resumed = make(params, prompt, output[:split])
    for token_id in output[split:]:
        resumed.append(token_id)
    appended = make(params, prompt, [])
    for token_id in output:
        appended.append(token_id)
    assert resumed.position == appended.position == len(prompt) + len(output)
    assert resumed.forbids_stop == appended.forbids_stop == (len(output) < 4)
    assert resumed.counts is not None
    assert appended.counts is not None
    assert resumed.counts.ids.tolist() == appended.counts.ids.tolist()
    assert resumed.counts.counts.tolist() == appended.counts.counts.tolist()


@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": 0.5},
        {"logprobs": 0},
        {"logit_bias": {1: 1.0}},
        {"allowed_token_ids": [1]},
        {"repetition_penalty": 1.1},
        {"presence_penalty": 0.1},
        {"frequency_penalty": -0.1},
        {"min_tokens": 2},
    ],
)
def test_anything_asked_for_is_not_plain_greedy(fields: dict[str, Any]) -> None:
    assert not make(SamplingParams(**{"temperature": 0.0, "seed": 0, **fields}), [1], [3]).plain_greedy


def test_plain_greedy_again_once_min_tokens_are_out() -> None:
    state = make(SamplingParams(temperature=0, min_tokens=2), [1], [])
    seen = []
    for token_id in (5, 6):
        seen.append(state.plain_greedy)
        state.append(token_id)
    assert [*seen, state.plain_greedy] == [False, False, True]


def test_end_tokens_outside_the_vocabulary_are_ignored() -> None:
    state = SamplingState(SamplingParams(seed=0, stop_token_ids=[4]), [1], [], [2, VOCAB, 10**6], VOCAB)
    assert sorted(state.stop_ids.tolist()) == [2, 4]
