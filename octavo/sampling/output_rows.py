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


@dataclass(slots=True)
class DraftRows:
    """Guesses at the next tokens of a state: the batch computes them as if they were right.

    State number `state` draws its next token from row `row`. Where that token is `token_ids[0]` it draws
    another one from the row after it, and so on along the drafts. `masks`, where there are any, are for
    `SamplingState.restrict`: `masks[i]` after `token_ids[i]`.
    """

    state: int
    row: int
    token_ids: list[int]
    masks: list[NDArray[np.uint32]] | None = None


@dataclass(frozen=True, slots=True)
class OutputRows:
    """What each output row of a batch is for.

    Every one of `states` gets a token. That of state `i` is drawn from row `rows[i]`, or from row `i` where
    `rows` is None: then nothing else has a row.
    """

    states: list[SamplingState]
    rows: list[int] | None = None
    prompts: list[PromptRows] = field(default_factory=list)
    drafts: list[DraftRows] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class StepTokens:
    """The results of a step: a token for each state, and the log probabilities of each `PromptRows`.

    `after_drafts[i]` are the further tokens of state `i`, one for each draft that came true; it is not there
    where none did.
    """

    sampled: list[SampledToken]
    prompt_logprobs: list[list[TokenLogprobs]]
    after_drafts: dict[int, list[SampledToken]] = field(default_factory=dict)


def sample_rows(sampler: Sampler, logits: NDArray[np.float32], rows: OutputRows) -> StepTokens:
    """Choose the tokens of a step from its `[R, V]` logits; the states know their new tokens afterwards.

    A random number belongs to a seed and a position, and a row's logits to the tokens before it. So a token
    that is drawn after a draft came true is the very one that a step of its own would have given.
    """
    prompt_logprobs = [
        sampler.prompt_logprobs(
            logits[each.start : each.start + len(each.token_ids)], np.array(each.token_ids), each.num_logprobs
        )
        for each in rows.prompts
    ]
    sampled = sampler.sample(logits if rows.rows is None else logits[rows.rows], rows.states)
    for state, token in zip(rows.states, sampled, strict=True):
        state.append(token.token_id)
    if not rows.drafts:
        return StepTokens(sampled, prompt_logprobs)
    return StepTokens(sampled, prompt_logprobs, _after_drafts(sampler, logits, rows, sampled))


def _after_drafts(
    sampler: Sampler, logits: NDArray[np.float32], rows: OutputRows, sampled: list[SampledToken]
) -> dict[int, list[SampledToken]]:
    """One round for each draft in a row: a state must know a token before it draws the next."""
    tokens: dict[int, list[SampledToken]] = {}
    true = [each for each in rows.drafts if each.token_ids[:1] == [sampled[each.state].token_id]]
    count = 0
    while true:
        states = [rows.states[each.state] for each in true]
        for each, state in zip(true, states, strict=True):
            if each.masks is not None:
                state.restrict(each.masks[count])
        count += 1
        drawn = sampler.sample(logits[[each.row + count for each in true]], states)
        for each, state, token in zip(true, states, drawn, strict=True):
            state.append(token.token_id)
            tokens.setdefault(each.state, []).append(token)
        true = [
            each
            for each, token in zip(true, drawn, strict=True)
            if each.token_ids[count : count + 1] == [token.token_id]
        ]
    return tokens
