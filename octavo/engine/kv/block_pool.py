"""The pool of KV blocks: which are free, in what order they are reused, and how many share each.

It knows memory: neither what a block holds nor for whom.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator

from octavo.engine.kv.block_residency import BlockResidency
from octavo.runtime.kv_cache import BLOCK_SIZE


def blocks_for(num_tokens: int) -> int:
    """Blocks that `num_tokens` tokens take."""
    return -(-num_tokens // BLOCK_SIZE)


class BlockPool:
    """`num_blocks` blocks, each with a reference count; those without a reference are free.

    Free blocks are taken in least recently freed order, so that a block keeps its content as long as
    memory allows; those whose content is of no use go first. Every operation is O(1) per block.
    Source: PagedAttention (Kwon et al., 2023), 4.2-4.4.
    """

    __slots__ = ("_free", "_num_taken", "_on_reuse", "_residency", "num_blocks", "ref_counts")

    def __init__(self, num_blocks: int, residency: BlockResidency | None = None) -> None:
        """`residency` is told what becomes of blocks."""
        if num_blocks < 1:
            raise ValueError(f"num_blocks must be at least 1, got {num_blocks}")
        self.num_blocks = num_blocks
        self.ref_counts = [0] * num_blocks
        self._free: OrderedDict[int, None] = OrderedDict.fromkeys(range(num_blocks))
        self._on_reuse: Callable[[int], None] | None = None
        self._num_taken = 0
        self._residency = residency

    @property
    def num_free(self) -> int:
        """Blocks without a reference."""
        return len(self._free)

    @property
    def num_touched(self) -> int:
        """Every block from this one on has never been handed out: those are taken in order."""
        return min(self._num_taken, self.num_blocks)

    def newest_free(self) -> Iterator[int]:
        """The free blocks, the most recently freed first."""
        return reversed(self._free)

    def on_reuse(self, callback: Callable[[int], None]) -> None:
        """Call `callback(block)` whenever `allocate` hands out a block, whose content is lost then."""
        self._on_reuse = callback

    def allocate(self, count: int) -> list[int] | None:
        """Take the `count` least recently freed blocks, with one reference each.

        Returns None, changing nothing, when fewer are free.
        """
        free = self._free
        if count > len(free):
            return None
        blocks = [free.popitem(last=False)[0] for _ in range(count)]
        self._num_taken += count
        for block in blocks:
            self.ref_counts[block] = 1
            if self._on_reuse is not None:
                self._on_reuse(block)
        if self._residency is not None:
            self._residency.allocated(blocks)
        return blocks

    def share(self, blocks: Iterable[int]) -> None:
        """Add a reference to each block; a free one stops being free and keeps its content."""
        blocks = list(blocks)
        if self._residency is not None:
            self._residency.used_again(blocks)
        for block in blocks:
            if self.ref_counts[block] == 0:
                del self._free[block]
            self.ref_counts[block] += 1

    def free(self, blocks: Iterable[int], *, useless: bool = False) -> None:
        """Drop a reference to each block, in order: those that become free are reused in that order.

        `useless` ones are reused before all others, last to first. Raises ValueError for a block that is
        free already.
        """
        for block in blocks:
            count = self.ref_counts[block] - 1
            if count < 0:
                raise ValueError(f"block {block} is freed twice")
            self.ref_counts[block] = count
            if count == 0:
                self._free[block] = None
                if useless:
                    self._free.move_to_end(block, last=False)

    def reuse_first(self, block: int) -> None:
        """The content of `block` has become of no use: reuse it before all others if it is free."""
        if self.ref_counts[block] == 0:
            self._free.move_to_end(block, last=False)
