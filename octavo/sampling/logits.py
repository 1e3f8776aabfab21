"""A row of logits: which of its values count, and the one order of its tokens.

The order is logit descending, equal logits by token id ascending. Greedy, top-k, top-p and the listed
logprobs all take a prefix of it. vLLM's top-k keeps every token tied with the k-th; here it is exactly k, so
that top_k=1 is greedy.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

_LARGEST = float(np.finfo(np.float32).max)
_COLUMNS_PER_TOKEN = 4
_FEWEST_COLUMNS = 1024
_ID_BITS = 32


def sanitise(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """`[V]` logits with NaN read as -inf and +inf as the largest float32.

    One row of a broken model, or an overflow, must not end the step that its batch shares. Costs one pass
    for the maximum (which is NaN when any logit is); a row that needs no change is returned as it is.
    """
    if math.isfinite(logits.max()):
        return logits
    return np.nan_to_num(logits, nan=-np.inf, posinf=_LARGEST, neginf=-np.inf)


def leading(logits: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    """The first `min(count, V)` token ids of the order of a `[V]` row without NaN.

    Sorts a few more than `count` tokens: fold the row into some multiple of `count` columns and take each
    column's maximum; at least `count` logits reach the `count`-th largest of those, and few others do.
    """
    size = len(logits)
    columns = max(_FEWEST_COLUMNS, _COLUMNS_PER_TOKEN * count)
    if columns > size // 2:
        return _first(logits, np.arange(size), count)
    folded = logits[: size - size % columns].reshape(-1, columns).max(axis=0)
    threshold = np.partition(folded, columns - count)[columns - count]
    return _first(logits, np.flatnonzero(logits >= threshold), count)


def _first(logits: NDArray[np.float32], token_ids: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """The first `count` of `token_ids`, by a sort of 64-bit keys: inverted logit bits, then id.

    All keys differ, so NumPy's vectorised unstable sort will do; a stable sort of floats takes 7 times as
    long over a vocabulary.
    """
    # Adding zero turns -0.0 into 0.0, which it equals.
    bits = (logits[token_ids] + np.float32(0)).view(np.int32)
    # As integers, the bits of positive floats grow with the float; those of negative ones the other way.
    ascending = np.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    keys: NDArray[np.int64] = (~ascending).astype(np.int64) << _ID_BITS | token_ids
    keys.sort()
    first: NDArray[np.int64] = keys[:count] & ((1 << _ID_BITS) - 1)
    return first
