"""How long the content of KV blocks stays, and how often it is used again: a sample of them, as in vLLM."""

from __future__ import annotations

import random
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from octavo.engine.messages import BlockEviction

_MOST_GAPS = 4
"""Gaps kept of a block that is used again and again: the last ones."""


@dataclass(slots=True)
class _Block:
    born: float
    last_used: float
    gaps: list[float] = field(default_factory=list)


class BlockResidency:
    """Follows a share of the blocks from when they are handed out until they are handed out again."""

    __slots__ = ("_evictions", "_followed", "_random", "_share")

    def __init__(self, share: float) -> None:
        """`share` of the blocks is followed, drawn anew at each allocation; 1 is all."""
        self._share = share
        self._random = random.Random(0)
        self._followed: dict[int, _Block] = {}
        self._evictions: list[BlockEviction] = []

    def allocated(self, blocks: Iterable[int]) -> None:
        """These blocks are handed out for new content; what they held is gone."""
        now = time.monotonic()
        for number in blocks:
            block = self._followed.pop(number, None)
            if block is not None:
                evicted = BlockEviction(now - block.born, now - block.last_used, block.gaps)
                self._evictions.append(evicted)
            if self._random.random() < self._share:
                self._followed[number] = _Block(now, now)

    def used_again(self, blocks: Iterable[int]) -> None:
        """One more sequence reads these blocks."""
        now = time.monotonic()
        for number in blocks:
            block = self._followed.get(number)
            if block is not None:
                block.gaps = [*block.gaps, now - block.last_used][-_MOST_GAPS:]
                block.last_used = now

    def take(self) -> list[BlockEviction]:
        """The evictions since the last call."""
        taken, self._evictions = self._evictions, []
        return taken
