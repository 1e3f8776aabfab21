"""Drawing one token from weights by the inverse of their cumulative distribution."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from octavo.sampling.candidates import Candidates


def draw(candidates: Candidates, u: float) -> int:
    """The token at quantile `u` in [0, 1), a multiple of 2^-53, of the candidates in order of id."""
    index = quantile(candidates.weights, u)
    return index if candidates.token_ids is None else int(candidates.token_ids[index])


def quantile(weights: NDArray[np.int64], u: float) -> int:
    """The first index whose cumulative weight exceeds `u` times the total; its weight is positive."""
    ends = weights.cumsum()
    target = int(u * 2**53) * int(ends[-1]) >> 53
    return int(np.searchsorted(ends, target, side="right"))
