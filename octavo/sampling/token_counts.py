"""Which tokens a sequence has seen and how often it has put them out: what the penalties read."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_FIRST_CAPACITY = 64


class TokenCounts:
    """Sparse counts of output tokens over the distinct tokens seen, prompt included.

    A prompt token that was never put out is present with count 0. `add` is O(1) amortised, and reading
    costs the number of distinct tokens, not the vocabulary.
    """

    __slots__ = ("_counts", "_ids", "_slots")

    def __init__(self, prompt_token_ids: Sequence[int] = ()) -> None:
        distinct = np.unique(np.asarray(prompt_token_ids, dtype=np.int64))
        capacity = max(_FIRST_CAPACITY, 2 * len(distinct))
        self._ids = np.zeros(capacity, dtype=np.int64)
        self._counts = np.zeros(capacity, dtype=np.float32)
        self._ids[: len(distinct)] = distinct
        self._slots = {token_id: slot for slot, token_id in enumerate(distinct.tolist())}

    def add(self, token_id: int) -> None:
        """Count one more output of `token_id`."""
        slot = self._slots.setdefault(token_id, len(self._slots))
        if slot == len(self._ids):
            self._ids = np.concatenate([self._ids, np.zeros_like(self._ids)])
            self._counts = np.concatenate([self._counts, np.zeros_like(self._counts)])
        self._ids[slot] = token_id
        self._counts[slot] += 1

    @property
    def ids(self) -> NDArray[np.int64]:
        """`[N]` distinct token ids, in no order that matters."""
        return self._ids[: len(self._slots)]

    @property
    def counts(self) -> NDArray[np.float32]:
        """`[N]` how often each of `ids` was put out."""
        return self._counts[: len(self._slots)]
