"""What a request does to its logits before a token is chosen, a function for each parameter.

Order and meaning are vLLM's: allowed tokens and mask, bias, `min_tokens`, bad words, then the penalties. Each
function changes its `[V]` float32 row in place; `process` leaves its input alone.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from octavo.sampling.state import SamplingState
from octavo.sampling.token_counts import TokenCounts


def process(logits: NDArray[np.float32], state: SamplingState) -> NDArray[np.float32]:
    """The row that the next token of `state` is chosen from; `logits` itself when nothing is asked."""
    forbids_stop = state.forbids_stop and len(state.stop_ids) > 0
    completing = state.bad_words.completing() if state.bad_words is not None else []
    restricted = state.allowed_ids is not None or state.mask is not None
    changes = restricted or len(state.bias_ids) or state.counts is not None
    if not (changes or forbids_stop or completing):
        return logits
    logits = logits.copy()
    if state.allowed_ids is not None:
        keep_only(logits, state.allowed_ids)
    if state.mask is not None:
        keep_masked(logits, state.mask)
    if len(state.bias_ids):
        logits[state.bias_ids] += state.bias
    if forbids_stop:
        logits[state.stop_ids] = -np.inf
    logits[completing] = -np.inf
    if state.counts is not None:
        params = state.params
        penalise_repetition(logits, state.counts, params.repetition_penalty)
        penalise_output(logits, state.counts, params.frequency_penalty, params.presence_penalty)
    return logits


def keep_only(logits: NDArray[np.float32], token_ids: NDArray[np.int64]) -> None:
    """Set every logit to -inf but those of `token_ids`."""
    kept = logits[token_ids]
    logits.fill(-np.inf)
    logits[token_ids] = kept


def keep_masked(logits: NDArray[np.float32], mask: NDArray[np.uint32]) -> None:
    """Set every logit to -inf whose bit of `mask`, the lowest of a word first, is 0."""
    bits = np.unpackbits(mask.astype("<u4").view(np.uint8), bitorder="little", count=len(logits))
    logits[bits == 0] = -np.inf


def penalise_repetition(logits: NDArray[np.float32], counts: TokenCounts, penalty: float) -> None:
    """Divide the positive and multiply the negative logits of tokens seen, prompt or output, by `penalty`.

    Source: CTRL (Keskar et al., 2019), section 4.1, with the sign taken into account as in vLLM and
    transformers.
    """
    if penalty == 1.0:
        return
    seen = logits[counts.ids]
    logits[counts.ids] = np.where(seen > 0, seen / penalty, seen * penalty)


def penalise_output(
    logits: NDArray[np.float32], counts: TokenCounts, frequency: float, presence: float
) -> None:
    """Subtract `frequency` for each time a token was put out, and `presence` once if it was at all."""
    if frequency:
        logits[counts.ids] -= frequency * counts.counts
    if presence:
        logits[counts.ids] -= np.float32(presence) * (counts.counts > 0)
