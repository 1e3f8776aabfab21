"""Sampling a step: rows are independent, tokens are functions of logits, seed and position."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from octavo.sampling.sampler import SampledToken, sample
from octavo.sampling.state import SamplingState
from octavo.sampling_params import SamplingParams

EOS = [2]

requests = st.fixed_dictionaries(
    {"seed": st.integers(-(2**63), 2**63 - 1), "temperature": st.sampled_from([0.0, 0.3, 1.0, 1.8])},
    optional={
        "top_p": st.sampled_from([0.3, 0.9, 0.99]),
        "top_k": st.sampled_from([1, 5, 40, 400]),
        "min_p": st.sampled_from([0.01, 0.2]),
        "repetition_penalty": st.sampled_from([0.8, 1.3]),
        "frequency_penalty": st.sampled_from([-1.0, 0.7]),
        "presence_penalty": st.sampled_from([-1.0, 0.7]),
        "logprobs": st.sampled_from([0, 1, 5, -1]),
        "logit_bias": st.just({0: 3.0, 4: -100.0}),
        "allowed_token_ids": st.just(list(range(1, 700, 7))),
        "min_tokens": st.sampled_from([1, 3, 12]),
        "stop_token_ids": st.just([8]),
    },
)


def normal(seed: int, rows: int, vocab: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(0, 3, (rows, vocab)).astype(np.float32)


def state(
    vocab: int, prompt: list[int] | None = None, output: list[int] | None = None, **fields: Any
) -> SamplingState:
    return SamplingState(SamplingParams(**fields), prompt or [1], output or [], EOS, vocab)


def bits(token: SampledToken) -> tuple[Any, ...]:
    """Everything about a token, comparable bit for bit."""
    if token.logprobs is None:
        return (token.token_id,)
    listed = token.logprobs
    return (token.token_id, listed.token_ids, [value.hex() for value in listed.logprobs], listed.rank)


@given(st.data())
@settings(max_examples=80, deadline=None)
def test_a_row_is_the_same_alone_and_in_any_batch(data: st.DataObject) -> None:
    """Bit for bit, whatever its neighbours, its place, and (the vocabulary is odd) its alignment."""
    vocab = data.draw(st.sampled_from([701, 4099, 49153]))
    rows = data.draw(st.integers(1, 9))
    logits = normal(data.draw(st.integers(0, 2**32 - 1)), rows, vocab)
    if data.draw(st.booleans()):
        logits[data.draw(st.integers(0, rows - 1)), 5] = np.nan
    before = logits.copy()
    fields = [data.draw(requests) for _ in range(rows)]
    states = [state(vocab, [5, 6, 7], [row, 9, 9], **each) for row, each in enumerate(fields)]

    together = [bits(token) for token in sample(logits, states)]

    order = data.draw(st.permutations(range(rows)))
    shuffled = sample(logits[order], [states[row] for row in order])
    assert [bits(token) for token in shuffled] == [together[row] for row in order]
    for row in range(rows):
        alone = sample(logits[row : row + 1].copy(), [states[row]])
        assert bits(alone[0]) == together[row]
    np.testing.assert_array_equal(logits, before)


def test_a_row_that_is_not_contiguous_is_the_same() -> None:
    logits = normal(0, 4, 5001)
    states = [state(5001, seed=row, logprobs=3) for row in range(4)]
    assert list(map(bits, sample(np.asfortranarray(logits), states))) == list(
        map(bits, sample(logits, states))
    )


def test_greedy_takes_the_first_of_the_most_likely() -> None:
    logits = np.array([[0, 7, 3, 7], [-5, -5, -5, -5], [1, 2, 3, 4]], dtype=np.float32)
    for extra in ({}, {"logit_bias": {0: 0.0}}):
        states = [state(4, temperature=0.0, **extra) for _ in range(3)]
        assert [token.token_id for token in sample(logits, states)] == [1, 0, 3]


def test_a_token_depends_on_seed_and_position_only() -> None:
    """Prompt and output lengths count together; other parameters of the past do not matter."""
    logits = normal(1, 1, 2000)
    tokens = {
        sample(logits, [state(2000, list(range(10 - split)), list(range(split)), seed=42)])[0].token_id
        for split in range(10)
    }
    assert len(tokens) == 1


def complete(seed: int, steps: int = 12) -> list[int]:
    """Tokens of a toy model whose logits depend on the last token."""
    current, tokens = state(500, [3], seed=seed), [3]
    for _ in range(steps):
        tokens.append(sample(normal(tokens[-1], 1, 500), [current])[0].token_id)
        current.append(tokens[-1])
    return tokens


def test_same_seed_same_tokens_other_seed_other_tokens() -> None:
    completions = [complete(seed) for seed in range(8)]
    assert completions == [complete(seed) for seed in range(8)]
    assert len({tuple(each) for each in completions}) == 8


def test_resumed_sequences_go_on_with_the_same_tokens() -> None:
    logits = normal(2, 20, 800)
    fields: dict[str, Any] = {"seed": 9, "repetition_penalty": 1.2, "top_p": 0.9, "min_tokens": 12}
    whole = state(800, [3, 4], **fields)
    output = []
    for row in logits:
        output.append(sample(row[None], [whole])[0].token_id)
        whole.append(output[-1])
    for cut in (0, 7, 19):
        resumed = state(800, [3, 4], output[:cut], **fields)
        assert sample(logits[cut : cut + 1], [resumed])[0].token_id == output[cut]


def test_min_tokens_puts_off_the_end() -> None:
    logits = np.zeros((1, 100), dtype=np.float32)
    logits[0, EOS[0]], logits[0, 50] = 20.0, 10.0
    current = state(100, temperature=0.0, min_tokens=3)
    tokens = []
    for _ in range(4):
        tokens.append(sample(logits, [current])[0].token_id)
        current.append(tokens[-1])
    assert tokens == [50, 50, 50, EOS[0]]


def test_penalties_take_the_appended_token_into_account() -> None:
    logits = np.array([[3.0, 2.5, 2.0, 0.0]], dtype=np.float32)
    current = state(4, [3], temperature=0.0, presence_penalty=1.0)
    tokens = []
    for _ in range(4):
        tokens.append(sample(logits, [current])[0].token_id)
        current.append(tokens[-1])
    assert tokens == [0, 1, 0, 0], "after 0 and 1 their logits are 2.0 and 1.5"


def test_logprobs_are_of_the_raw_logits() -> None:
    logits = normal(3, 1, 300)
    plain = sample(logits, [state(300, temperature=0.0, logprobs=4)])[0].logprobs
    changed = sample(
        logits, [state(300, seed=0, temperature=0.1, top_k=1, logprobs=4, logit_bias={9: 100.0})]
    )[0]
    assert plain is not None
    assert changed.logprobs is not None
    assert changed.token_id == changed.logprobs.token_ids[0] == 9
    assert changed.logprobs.token_ids[1:] == plain.token_ids[1:]
    assert changed.logprobs.logprobs[1:] == plain.logprobs[1:]
    assert changed.logprobs.rank == 1 + np.count_nonzero(logits[0] > logits[0, 9])


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_nan_counts_as_impossible(temperature: float) -> None:
    logits = np.full((1, 10), np.nan, dtype=np.float32)
    logits[0, 6] = -3.0
    token = sample(logits, [state(10, seed=0, temperature=temperature, logprobs=1)])[0]
    assert token.token_id == 6
    assert token.logprobs is not None
    assert token.logprobs.logprobs == [0.0, 0.0]
    assert sample(logits, [state(10, seed=0, temperature=temperature)])[0].token_id == 6


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_a_row_without_any_token_gives_the_first_allowed_one(
    temperature: float, value: float, caplog: pytest.LogCaptureFixture
) -> None:
    """And its neighbours do not notice."""
    logits = normal(5, 3, 10)
    states = [state(10, seed=row, temperature=temperature) for row in range(3)]
    expected = sample(logits, states)
    logits[1] = value
    with caplog.at_level(logging.WARNING):
        tokens = sample(logits, states)
    assert [tokens[0], tokens[2]] == [expected[0], expected[2]]
    assert tokens[1].token_id == 0
    assert "every logit is -inf or NaN" in caplog.text
    states[1] = state(10, seed=1, temperature=temperature, allowed_token_ids=[2, 7, 4], min_tokens=1)
    assert sample(logits, states)[1].token_id == 4, "2 is the end token"


@pytest.mark.parametrize("temperature", [0.0, 1e-4, 1.0])
def test_infinite_and_huge_logits(temperature: float) -> None:
    logits = np.array([[0.0, np.inf, -np.inf, 1.0], [3e38, -3e38, 0.0, 1.0]], dtype=np.float32)
    states = [state(4, seed=row, temperature=temperature, top_p=0.9) for row in range(2)]
    with np.errstate(over="ignore"):
        assert [token.token_id for token in sample(logits, states)] == [1, 0]


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match="2 rows for 1 states"):
        sample(normal(0, 2, 10), [state(10, seed=0)])
