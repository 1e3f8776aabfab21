"""Words that are never put out: against vLLM's rule, written down naively."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.fake_engine import byte_tokenizer

from octavo.sampling.bad_words import BadWords, bad_word_tokens
from octavo.sampling.processors import process
from octavo.sampling.sampler import sample
from octavo.sampling.state import SamplingState, check_token_ids
from octavo.sampling_params import SamplingParams

VOCAB = 6
TOKENS = st.integers(0, VOCAB - 1)
SEQUENCES = st.lists(st.lists(TOKENS, min_size=1, max_size=4), max_size=5)


def state(sequences: list[list[int]], output: list[int], **fields: Any) -> SamplingState:
    params = SamplingParams(bad_words_token_ids=sequences, seed=0, **fields)
    return SamplingState(params, [0, 1], output, [], VOCAB)


def forbidden(sequences: list[list[int]], output: list[int]) -> set[int]:
    """The rule: the last token of each sequence whose others are the output's end."""
    return {ids[-1] for ids in sequences if len(ids) == 1 or output[-(len(ids) - 1) :] == ids[:-1]}


@given(SEQUENCES, st.lists(TOKENS, max_size=12))
def test_what_would_complete_a_word_is_forbidden(sequences: list[list[int]], output: list[int]) -> None:
    processed = process(np.zeros(VOCAB, np.float32), state(sequences, output))
    assert set(np.flatnonzero(processed == -np.inf)) == forbidden(sequences, output)


@given(SEQUENCES, st.integers(0, 2**32 - 1), st.sampled_from([0.0, 1.0]))
def test_no_output_holds_a_word(sequences: list[list[int]], seed: int, temperature: float) -> None:
    if {ids[0] for ids in sequences if len(ids) == 1} == set(range(VOCAB)):
        return
    rng = np.random.default_rng(seed)
    each = state(sequences, [], temperature=temperature)
    output: list[int] = []
    for _ in range(30):
        if len(forbidden(sequences, output)) == VOCAB:
            return
        [chosen] = sample(rng.normal(size=(1, VOCAB)).astype(np.float32), [each])
        output.append(chosen.token_id)
        each.append(chosen.token_id)
        assert not any(output[-len(ids) :] == ids for ids in sequences)


@given(SEQUENCES, st.lists(TOKENS, max_size=8), st.integers(0, 8))
def test_a_resumed_sequence_knows_what_it_put_out(
    sequences: list[list[int]], output: list[int], cut: int
) -> None:
    resumed = state(sequences, output[:cut])
    for token_id in output[cut:]:
        resumed.append(token_id)
    logits = np.zeros(VOCAB, np.float32)
    np.testing.assert_array_equal(process(logits, resumed), process(logits, state(sequences, output)))


def test_a_word_is_also_forbidden_after_a_space() -> None:
    tokenizer = byte_tokenizer()
    # A space is a token of its own here: the spaced form is no form of its own.
    assert bad_word_tokens(["ab", " c"], tokenizer) == [[97, 98], [99]]

    class Words:
        def encode(self, text: str, add_special_tokens: bool) -> list[int]:
            assert not add_special_tokens
            return {"cat": [1], " cat": [2], "dog": [3, 4], " dog": [5], "owl": [6], " owl": [6]}[text]

    words: Any = Words()
    assert bad_word_tokens(["cat", " dog", "owl"], words) == [[1], [2], [3, 4], [6]]


def test_a_word_without_tokens_is_refused() -> None:
    class Nothing:
        def encode(self, text: str, add_special_tokens: bool) -> list[int]:
            return []

    nothing: Any = Nothing()
    with pytest.raises(ValueError, match="bad_words holds 'x', which has no tokens"):
        bad_word_tokens(["x"], nothing)


def test_allowed_tokens_that_are_all_bad() -> None:
    params = SamplingParams(allowed_token_ids=[1, 2], bad_words_token_ids=[[1], [2], [3, 4]])
    with pytest.raises(ValueError, match="allowed_token_ids holds only tokens that bad_words forbids"):
        check_token_ids(params, VOCAB)
    check_token_ids(SamplingParams(allowed_token_ids=[1, 3], bad_words_token_ids=[[1]]), VOCAB)
    with pytest.raises(ValueError, match="bad_words_token_ids must hold token ids"):
        check_token_ids(SamplingParams(bad_words_token_ids=[[1, 6]]), VOCAB)


def test_only_as_much_is_remembered_as_the_longest_word_needs() -> None:
    words = BadWords([[1, 2, 3]])
    for token_id in (9, 9, 1, 2):
        words.append(token_id)
    assert list(words._recent) == [1, 2]
    assert words.completing() == [3]
