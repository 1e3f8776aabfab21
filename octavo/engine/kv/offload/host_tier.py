"""KV blocks in ordinary memory, by digest."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray


class HostTier:
    """The `num_blocks` blocks that were put or used last."""

    __slots__ = ("_blocks", "num_blocks")

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = num_blocks
        self._blocks: OrderedDict[bytes, NDArray[np.uint8]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._blocks)

    def __contains__(self, digest: bytes) -> bool:
        return digest in self._blocks

    def get(self, digest: bytes) -> NDArray[np.uint8] | None:
        """The bytes of a block, which nobody changes."""
        return self._blocks.get(digest)

    def put(self, digest: bytes, data: NDArray[np.uint8]) -> None:
        """Keep a block, in place of the one that is oldest where there is no room."""
        if self.num_blocks:
            if len(self._blocks) == self.num_blocks:
                self._blocks.popitem(last=False)
            self._blocks[digest] = data

    def touch(self, chain: Iterable[bytes]) -> None:
        """These were used, each the parent of the one before it: a parent must outlive its children."""
        for digest in chain:
            if digest in self._blocks:
                self._blocks.move_to_end(digest)

    def clear(self) -> None:
        """Forget all."""
        self._blocks.clear()
