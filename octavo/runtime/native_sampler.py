"""Sampling in C++: the same tokens and log probabilities as `octavo.sampling.sampler`, bit for bit."""

from __future__ import annotations

from typing import cast

import numpy as np
from numpy.typing import NDArray

from octavo import _native
from octavo.sampling.logprobs import TokenLogprobs
from octavo.sampling.sampler import SampledToken, check_rows, warn_impossible
from octavo.sampling.state import SamplingState
from octavo.sampling.weights import LOG2_E, log2_floor


class NativeSampler:
    """Samples all rows of a step in one call on the threads of a program, with the GIL released.

    Not while the program runs: they are the same threads. See `octavo.sampling.sampler.Sampler`.
    """

    def __init__(self, native: _native.Sampler) -> None:
        self._native = native

    def sample(self, logits: NDArray[np.float32], states: list[SamplingState]) -> list[SampledToken]:
        """See `octavo.sampling.sampler.Sampler.sample`."""
        check_rows(logits, states)
        token_ids, impossible, logprobs = self._native.sample(
            np.ascontiguousarray(logits),
            cast(list[_native.SamplingPlan], [state.plan or make_plan(state) for state in states]),
            [state.num_outputs for state in states],
            [
                (row, state.counts.ids, state.counts.counts)
                for row, state in enumerate(states)
                if state.counts is not None
            ],
            [
                (row, state.bad_words.completing())
                for row, state in enumerate(states)
                if state.bad_words is not None
            ],
            [(row, state.mask) for row, state in enumerate(states) if state.mask is not None],
        )
        for row in impossible:
            warn_impossible(states[row])
        if not logprobs:
            return [SampledToken(token_id) for token_id in token_ids]
        listed = iter(logprobs)
        return [
            SampledToken(token_id, None if state.params.logprobs is None else TokenLogprobs(*next(listed)))
            for token_id, state in zip(token_ids, states, strict=True)
        ]

    def prompt_logprobs(
        self, logits: NDArray[np.float32], token_ids: NDArray[np.integer], count: int
    ) -> list[TokenLogprobs]:
        """See `octavo.sampling.sampler.Sampler.prompt_logprobs`."""
        listed = logits.shape[1] if count == -1 else count
        scores = self._native.score(np.ascontiguousarray(logits), token_ids.astype(np.int64), listed)
        return [TokenLogprobs(*each) for each in scores]


def make_plan(state: SamplingState) -> _native.SamplingPlan:
    """What C++ needs to know of a request; the state keeps it."""
    params = state.params
    num_logprobs = -1 if params.logprobs is None else params.logprobs
    if params.logprobs == -1:
        num_logprobs = state.vocab_size
    plan = state.plan = _native.SamplingPlan(
        vocab_size=state.vocab_size,
        num_prompt=state.num_prompt,
        min_tokens=state.min_tokens,
        greedy=params.greedy,
        scale=1.0 if params.greedy else LOG2_E / params.temperature,
        floor=float(log2_floor(params.min_p)),
        top_k=params.top_k,
        top_p=params.top_p,
        seed=state.seed % 2**64,
        num_logprobs=num_logprobs,
        repetition_penalty=params.repetition_penalty,
        frequency_penalty=params.frequency_penalty,
        presence_penalty=params.presence_penalty,
        allowed=None if state.allowed_ids is None else state.allowed_ids.tolist(),
        bias_ids=state.bias_ids.tolist(),
        bias=state.bias.tolist(),
        stop_ids=state.stop_ids.tolist(),
    )
    return plan
