"""The distribution of a token (temperature, min-p, top-k, top-p over a row of logits), and a draw from it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from octavo.sampling.logits import leading
from octavo.sampling.weights import share, weigh
from octavo.sampling_params import SamplingParams

_FIRST_NUCLEUS = 256
_NUCLEUS_GROWTH = 8


@dataclass(frozen=True, slots=True)
class Candidates:
    """Tokens that may be drawn, in order of id, with weights proportional to their probabilities.

    `token_ids` is `[N]`, or None for every token; `weights` is `[N]`. See `octavo.sampling.weights`.
    """

    token_ids: NDArray[np.int64] | None
    weights: NDArray[np.int64]


def candidates(logits: NDArray[np.float32], params: SamplingParams) -> Candidates:
    """What may be drawn from a `[V]` row whose maximum is finite.

    As in vLLM top-p comes last, over what min-p and top-k left; those two are prefixes of the order of
    `octavo.sampling.logits`, so which of them comes first makes no difference.
    """
    top, token_ids = logits.max(), None
    if 0 < params.top_k < len(logits):
        token_ids = np.sort(leading(logits, params.top_k))
        logits = logits[token_ids]
    weights = weigh(logits, top, params.temperature, params.min_p)
    if params.top_p < 1.0:
        kept = nucleus(logits, weights, params.top_p)
        token_ids = kept if token_ids is None else token_ids[kept]
        weights = weights[kept]
    return Candidates(token_ids, weights)


def nucleus(logits: NDArray[np.float32], weights: NDArray[np.int64], top_p: float) -> NDArray[np.int64]:
    """Indices, ascending, of the shortest prefix of the order that holds `top_p` of the `[N]` weights.

    Tries the first 256 tokens, then 8 times as many, and so on, so that a peaked distribution never sorts
    its vocabulary. Source: nucleus sampling (Holtzman et al., 2020), section 3.1.
    """
    needed = share(int(weights.sum()), top_p)
    size = _FIRST_NUCLEUS
    while True:
        first = leading(logits, size)
        held = weights[first].cumsum()
        if held[-1] >= needed:
            return np.sort(first[: int(np.searchsorted(held, needed)) + 1])
        size *= _NUCLEUS_GROWTH


def draw(found: Candidates, u: float) -> int:
    """The token at quantile `u` in [0, 1), a multiple of 2^-53, of the candidates in order of id."""
    index = quantile(found.weights, u)
    return index if found.token_ids is None else int(found.token_ids[index])


def quantile(weights: NDArray[np.int64], u: float) -> int:
    """The first index whose cumulative weight exceeds `u` times the total; its weight is positive."""
    ends = weights.cumsum()
    target = int(u * 2**53) * int(ends[-1]) >> 53
    return int(np.searchsorted(ends, target, side="right"))
