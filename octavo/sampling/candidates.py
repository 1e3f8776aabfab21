"""The distribution a token is drawn from: temperature, min-p, top-k and top-p over a row of logits."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from octavo.sampling.order import leading
from octavo.sampling_params import SamplingParams

_FIRST_NUCLEUS = 256
_NUCLEUS_GROWTH = 8


@dataclass(frozen=True, slots=True)
class Candidates:
    """Tokens that may be drawn, with weights proportional to their probabilities, in drawing order.

    `token_ids` is `[N]`, or None for every token in order of id; `weights` is `[N]` float32.
    """

    token_ids: NDArray[np.int64] | None
    weights: NDArray[np.float32]


def candidates(logits: NDArray[np.float32], params: SamplingParams) -> Candidates:
    """What may be drawn from a `[V]` row whose maximum is finite.

    As in vLLM top-p comes last, over what min-p and top-k left; those two are prefixes of the order of
    `octavo.sampling.order`, so which of them comes first makes no difference. With neither top-k nor top-p
    the tokens stay in order of id and nothing is sorted; otherwise they come in that order.
    """
    token_ids = leading(logits, params.top_k) if 0 < params.top_k < len(logits) else None
    scaled = scale(logits if token_ids is None else logits[token_ids], params.temperature)
    keep_min_p(scaled, params.min_p)
    weights: NDArray[np.float32] = np.exp(scaled, out=scaled)
    if params.top_p >= 1.0:
        return Candidates(token_ids, weights)
    if token_ids is None:
        return nucleus(logits, weights, params.top_p)
    count = nucleus_size(weights, params.top_p, float(weights.sum(dtype=np.float64)))
    return Candidates(token_ids[:count], weights[:count])


def scale(logits: NDArray[np.float32], temperature: float) -> NDArray[np.float32]:
    """`(logits - max) / temperature`: the most likely token is at 0, so its weight is 1."""
    scaled: NDArray[np.float32] = logits - logits.max()
    if temperature != 1.0:
        scaled /= temperature
    return scaled


def keep_min_p(scaled: NDArray[np.float32], min_p: float) -> None:
    """Set to -inf, in place, tokens less than `min_p` times as likely as the most likely one.

    Source: min-p sampling (Nguyen et al., 2024).
    """
    if min_p > 0.0:
        scaled[scaled < math.log(min_p)] = -np.inf


def nucleus(logits: NDArray[np.float32], weights: NDArray[np.float32], top_p: float) -> Candidates:
    """The shortest prefix of the order that holds `top_p` of the `[V]` row's weight.

    Tries the first 256 tokens, then 8 times as many, and so on, so that a peaked distribution never sorts
    its vocabulary. Source: nucleus sampling (Holtzman et al., 2020), section 3.1.
    """
    total = float(weights.sum(dtype=np.float64))
    size = _FIRST_NUCLEUS
    while True:
        token_ids = leading(logits, size)
        ordered = weights[token_ids]
        count = nucleus_size(ordered, top_p, total)
        if count < len(ordered) or len(ordered) == len(logits):
            return Candidates(token_ids[:count], ordered[:count])
        size *= _NUCLEUS_GROWTH


def nucleus_size(ordered: NDArray[np.float32], top_p: float, total: float) -> int:
    """How many of the `ordered` weights it takes to reach `top_p` of `total`; all, if they do not."""
    cumulative = ordered.cumsum(dtype=np.float64)
    return min(int(np.searchsorted(cumulative, top_p * total)) + 1, len(ordered))
