"""The C++ sampler is the NumPy one: the same tokens and log probabilities, bit for bit, on every tier."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from octavo.sampling.processors import process
from octavo.sampling.sampler import ReferenceSampler, SampledToken
from octavo.sampling.state import SamplingState
from octavo.sampling_params import SamplingParams

_native = pytest.importorskip("octavo._native")

from octavo.runtime.native_sampler import NativeSampler  # noqa: E402

EOS = [2]


@pytest.fixture(
    scope="module", params=[(isa, threads) for isa in _native.isas() for threads in (1, 3)], ids=str
)
def sampler(request: pytest.FixtureRequest) -> NativeSampler:
    """One for each ISA tier, alone and on several threads."""
    isa, threads = request.param
    return NativeSampler(_native.Program(threads, isa).sampler())


requests = st.fixed_dictionaries(
    {
        "seed": st.integers(-(2**63), 2**63 - 1),
        "temperature": st.sampled_from([0.0, 0.01, 0.3, 1.0, 1.8, 50.0]),
    },
    optional={
        "top_p": st.sampled_from([1e-6, 0.3, 0.9, 0.99, 1 - 1e-9]),
        "top_k": st.sampled_from([1, 5, 40, 400, 10**6]),
        "min_p": st.sampled_from([1e-20, 0.01, 0.2, 1.0]),
        "repetition_penalty": st.sampled_from([0.8, 1.3]),
        "frequency_penalty": st.sampled_from([-1.0, 0.7]),
        "presence_penalty": st.sampled_from([-1.0, 0.7]),
        "logprobs": st.sampled_from([0, 1, 5, 100, -1]),
        "logit_bias": st.just({0: 3.3, 4: -100.0}),
        "allowed_token_ids": st.sampled_from([[3], list(range(1, 700, 7))]),
        "min_tokens": st.sampled_from([1, 3, 12]),
        "stop_token_ids": st.just([8]),
        "bad_words_token_ids": st.sampled_from([[[5]], [[7, 6], [1, 2, 3], [0]]]),
    },
)


@st.composite
def logit_rows(draw: st.DrawFn) -> NDArray[np.float32]:
    """Rows from peaked to flat, with or without ties, masked tokens and what a broken model gives."""
    vocab = draw(st.sampled_from([1, 15, 701, 1024, 4099, 49153]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    logits = rng.normal(0, 1, (draw(st.integers(1, 6)), max(vocab, 701) if vocab > 15 else vocab))
    for row in logits:
        row[:] *= draw(st.sampled_from([0.0, 0.1, 3.0, 12.0, 1e37]))
        if draw(st.booleans()):
            np.round(row, 1, out=row)
        row[rng.random(row.size) < draw(st.sampled_from([0.0, 0.0, 0.5, 1.0]))] = -np.inf
        row[rng.random(row.size) < draw(st.sampled_from([0.0, 0.0, 0.001]))] = np.nan
        row[rng.random(row.size) < draw(st.sampled_from([0.0, 0.0, 0.001]))] = np.inf
    return logits.astype(np.float32)


def state(vocab: int, prompt: list[int], output: list[int], fields: dict[str, Any]) -> SamplingState:
    return SamplingState(SamplingParams(**fields), prompt, output, EOS, vocab)


def bits(token: SampledToken) -> tuple[Any, ...]:
    """Everything about a token, comparable bit for bit."""
    if token.logprobs is None:
        return (token.token_id,)
    listed = token.logprobs
    return (token.token_id, listed.token_ids, [value.hex() for value in listed.logprobs], listed.rank)


@given(data=st.data())
@settings(max_examples=100, deadline=None)
def test_the_same_as_the_reference(sampler: NativeSampler, data: st.DataObject) -> None:
    logits = data.draw(logit_rows())
    rows, vocab = logits.shape
    states = []
    for row in range(rows):
        fields = data.draw(requests)
        if vocab < 701:
            names = ("logit_bias", "allowed_token_ids", "stop_token_ids", "min_tokens", "bad_words_token_ids")
            for name in names:
                fields.pop(name, None)
        output = data.draw(st.lists(st.integers(0, min(vocab, 9) - 1), max_size=4))
        states.append(state(vocab, [0, vocab - 1, row % vocab], output, fields))
        if data.draw(st.integers(0, 3)) == 0:
            words = np.random.default_rng(data.draw(st.integers(0, 99))).integers(
                0, 2**32, (vocab + 31) // 32
            )
            states[-1].mask = words.astype(np.uint32)
    before = logits.copy()
    with np.errstate(over="ignore"):
        expected = ReferenceSampler().sample(logits, states)
        sampled = sampler.sample(logits, states)
    assert list(map(bits, sampled)) == list(map(bits, expected))
    np.testing.assert_array_equal(logits, before)


@pytest.mark.parametrize("spread", [0.0, 0.5, 2.0, 5.0])
def test_a_nucleus_of_any_size_is_the_same(sampler: NativeSampler, spread: float) -> None:
    """From one token to all of them, whichever way it is found."""
    logits = np.random.default_rng(1).normal(0, spread, (24, 20000)).astype(np.float32)
    states = [
        state(20000, [1], [], {"seed": row, "top_p": top_p, "top_k": top_k})
        for row, (top_p, top_k) in enumerate(
            [(p, k) for p in (0.01, 0.5, 0.95, 0.9999) for k in (0, 3, 90, 700, 5000, 19999)]
        )
    ]
    assert sampler.sample(logits, states) == ReferenceSampler().sample(logits, states)


@pytest.mark.parametrize("count", [0, 3, 700, -1])
def test_prompt_logprobs_are_the_same(sampler: NativeSampler, count: int) -> None:
    logits = np.random.default_rng(2).normal(0, 4, (7, 3001)).astype(np.float32)
    logits[2, 40] = np.nan
    logits[3] = -np.inf
    token_ids = np.array([5, 40, 40, 0, 3000, 7, 8], dtype=np.int32)
    expected = ReferenceSampler().prompt_logprobs(logits, token_ids, count)
    assert sampler.prompt_logprobs(logits, token_ids, count) == expected


def test_a_row_without_any_token_is_warned_of(
    sampler: NativeSampler, caplog: pytest.LogCaptureFixture
) -> None:
    logits = np.full((2, 10), -np.inf, dtype=np.float32)
    logits[0, 3] = 1.0
    with caplog.at_level(logging.WARNING):
        tokens = sampler.sample(logits, [state(10, [1], [], {"seed": row}) for row in range(2)])
    assert [token.token_id for token in tokens] == [3, 0]
    assert caplog.text.count("every logit is -inf or NaN") == 1


def test_shapes_must_agree(sampler: NativeSampler) -> None:
    with pytest.raises(ValueError, match="2 rows for 1 states"):
        sampler.sample(np.zeros((2, 10), np.float32), [state(10, [1], [], {"seed": 0})])
    with pytest.raises(ValueError, match="token ids"):
        sampler.prompt_logprobs(np.zeros((2, 10), np.float32), np.array([1]), 1)


@pytest.mark.parametrize(
    "fields",
    [
        {"repetition_penalty": 1.3},
        {"frequency_penalty": 0.7},
        {"presence_penalty": 0.7},
        {"logit_bias": {5: 0.3}},
        {"repetition_penalty": 0.9, "frequency_penalty": -0.3, "presence_penalty": 1.1},
    ],
    ids=str,
)
def test_processed_logits_round_alike(sampler: NativeSampler, fields: dict[str, Any]) -> None:
    """Another token is made to tie with the processed one: a last bit more or less would choose the other."""
    logits = np.full((200, 10), -50, dtype=np.float32)
    logits[:, 5] = np.random.default_rng(3).normal(0, 5, 200)
    states = [state(10, [1], [5, 5], {"temperature": 0.0, **fields}) for _ in logits]
    for number, (row, each) in enumerate(zip(logits, states, strict=True)):
        row[[4, 6][number % 2]] = process(row, each)[5]
    tokens = [token.token_id for token in sampler.sample(logits, states)]
    assert tokens == [4, 5] * 100


@pytest.mark.parametrize(
    ("top_p", "size"), [(np.nextafter(0.25, 0), 1), (0.25, 1), (np.nextafter(0.25, 1), 2)]
)
def test_a_nucleus_ends_at_exactly_its_share(sampler: NativeSampler, top_p: float, size: int) -> None:
    logits = np.full((64, 300), -np.inf, dtype=np.float32)
    logits[:, [9, 40, 41, 299]] = 2.0
    states = [state(300, [1], [], {"seed": seed, "top_p": float(top_p)}) for seed in range(64)]
    drawn = {token.token_id for token in sampler.sample(logits, states)}
    assert drawn == set([9, 40][:size])
