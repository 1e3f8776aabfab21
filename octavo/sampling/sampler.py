"""From a step's logits to its tokens.

Each row goes through the same steps by itself: no sum, sort or random number is shared between rows. So a
token depends only on its own logits, parameters, seed and position, bit for bit, whatever the batch.
"""

from __future__ import annotations

import logging
import math
from typing import Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from octavo.sampling.candidates import candidates, draw
from octavo.sampling.logits import sanitise
from octavo.sampling.logprobs import TokenLogprobs, prompt_logprobs, token_logprobs
from octavo.sampling.processors import process
from octavo.sampling.rng import uniform
from octavo.sampling.state import SamplingState

_log = logging.getLogger(__name__)


class SampledToken(msgspec.Struct, frozen=True):
    """The token chosen for a row, with log probabilities if its request asked for them."""

    token_id: int
    logprobs: TokenLogprobs | None = None


class Sampler(Protocol):
    """Chooses the tokens of a step: in NumPy, the definition, or in C++ (`octavo.runtime.native_sampler`)."""

    def sample(self, logits: NDArray[np.float32], states: list[SamplingState]) -> list[SampledToken]:
        """Choose the next token of each row of `[R, V]` logits, which are left as they are.

        The caller appends each token to its state. NaN logits count as -inf. A row in which no token is
        left (a broken model) gives the lowest token id that its request allows and a warning in the log,
        and does not disturb the others.
        """
        ...

    def prompt_logprobs(
        self, logits: NDArray[np.float32], token_ids: NDArray[np.integer], count: int
    ) -> list[TokenLogprobs]:
        """Log probabilities of `[P]` prompt tokens, each under the `[P, V]` row that predicted it, and of
        that row's `count` most likely tokens (-1: all)."""
        ...


class ReferenceSampler:
    """The definition, in NumPy."""

    def sample(self, logits: NDArray[np.float32], states: list[SamplingState]) -> list[SampledToken]:
        """See `Sampler.sample`."""
        return sample(logits, states)

    def prompt_logprobs(
        self, logits: NDArray[np.float32], token_ids: NDArray[np.integer], count: int
    ) -> list[TokenLogprobs]:
        """See `Sampler.prompt_logprobs`."""
        return prompt_logprobs(logits, token_ids, count)


def sample(logits: NDArray[np.float32], states: list[SamplingState]) -> list[SampledToken]:
    """`Sampler.sample`, a row at a time."""
    check_rows(logits, states)
    return [sample_row(row, state) for row, state in zip(logits, states, strict=True)]


def check_rows(logits: NDArray[np.float32], states: list[SamplingState]) -> None:
    """Raise ValueError unless there is a state for each row."""
    if logits.shape[0] != len(states):
        raise ValueError(f"logits have {logits.shape[0]} rows for {len(states)} states")


def warn_impossible(state: SamplingState) -> None:
    """Log that a row had no token to choose."""
    _log.warning("no token has a probability: every logit is -inf or NaN at position %d", state.position)


def sample_row(raw: NDArray[np.float32], state: SamplingState) -> SampledToken:
    """Choose the next token from one `[V]` row: the definition that `sample` repeats."""
    if state.plain_greedy:
        token_id = int(raw.argmax())
        # argmax stops at a NaN, and finds nothing worth taking in a row of -inf.
        if math.isfinite(raw[token_id]):
            return SampledToken(token_id)
    raw = sanitise(raw)
    token_id = choose(sanitise(process(raw, state)), state)
    count = state.params.logprobs
    return SampledToken(token_id, None if count is None else token_logprobs(raw, token_id, count))


def choose(logits: NDArray[np.float32], state: SamplingState) -> int:
    """The next token from a `[V]` row of processed logits: the first of the most likely, or a draw."""
    best = int(logits.argmax())
    if logits[best] == -np.inf:
        warn_impossible(state)
        return int((process(np.zeros_like(logits), state) > -np.inf).argmax())
    if state.params.greedy:
        return best
    return draw(candidates(logits, state.params), uniform(state.seed, state.position))
