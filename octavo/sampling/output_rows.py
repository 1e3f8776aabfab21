"""What the output rows of a step are for, and the tokens and log probabilities that come of them."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from octavo.sampling.logprobs import TokenLogprobs
from octavo.sampling.sampler import SampledToken, Sampler
from octavo.sampling.state import SamplingState


@dataclass(frozen=True, slots=True)
class PromptRows:
    """Rows from `start` on give the log probabilities of prompt tokens, a row for each of `token_ids`.

    With each come those of its row's `num_logprobs` most likely tokens (-1: all).
    """

    start: int
    token_ids: list[int]
    num_logprobs: int


@dataclass(frozen=True, slots=True)
class OutputRows:
    """What each output row of a batch is for.

    Every one of `states` gets a token. That of state `i` is drawn from row `rows[i]`, or from row `i` where
    `rows` is None: then nothing else has a row.
    """

    states: list[SamplingState]
    rows: list[int] | None = None
    prompts: list[PromptRows] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class StepTokens:
    """The results of a step: a token for each state, and the log probabilities of each `PromptRows`."""

    sampled: list[SampledToken]
    prompt_logprobs: list[list[TokenLogprobs]]


def sample_rows(sampler: Sampler, logits: NDArray[np.float32], rows: OutputRows) -> StepTokens:
    """Choose the tokens of a step from its `[R, V]` logits; the states know their new token afterwards."""
    prompt_logprobs = [
        sampler.prompt_logprobs(
            logits[each.start : each.start + len(each.token_ids)], np.array(each.token_ids), each.num_logprobs
        )
        for each in rows.prompts
    ]
    if rows.rows is not None:
        logits = logits[rows.rows]
    sampled = sampler.sample(logits, rows.states)
    for state, token in zip(rows.states, sampled, strict=True):
        state.append(token.token_id)
    return StepTokens(sampled, prompt_logprobs)
