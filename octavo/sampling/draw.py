"""Drawing one token from weights by the inverse of their cumulative distribution."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from octavo.sampling.candidates import Candidates

BLOCK = 256
"""Weights that are summed together before the block is known."""


def draw(candidates: Candidates, u: float) -> int:
    """The token at quantile `u` in [0, 1) of the candidates, in their order."""
    index = quantile(candidates.weights, u)
    return index if candidates.token_ids is None else int(candidates.token_ids[index])


def quantile(weights: NDArray[np.float32], u: float) -> int:
    """The first index whose cumulative weight exceeds `u` times the total; its weight is positive.

    In two levels, because one cumulative sum over a vocabulary is a chain of dependent additions: sums of
    blocks of 256 in float64 find the block, a cumulative sum within it finds the index. The order of
    additions depends on nothing but the number of weights.
    """
    exact = weights.astype(np.float64)
    ends = np.add.reduceat(exact, np.arange(0, len(exact), BLOCK)).cumsum()
    target = u * ends[-1]
    block = int(np.searchsorted(ends, target, side="right"))
    before = ends[block - 1] if block else 0.0
    inside = exact[block * BLOCK : (block + 1) * BLOCK]
    index = int(np.searchsorted(before + inside.cumsum(), target, side="right"))
    # The two levels round differently, so the target can lie just past the block's own end.
    return block * BLOCK + min(index, int(np.flatnonzero(inside)[-1]))
