"""A sequence's blocks in one KV group."""

from __future__ import annotations


class BlockTable:
    """`blocks[i]` has tokens `16 i` to `16 i + 15` of a sequence, for the layers of a group.

    The first `num_dropped` entries fell out of the window: those blocks belong to others. The first
    `num_written` have been written to the arrays of the batch.
    """

    __slots__ = ("blocks", "num_dropped", "num_written")

    def __init__(self, blocks: list[int], num_dropped: int = 0) -> None:
        self.blocks = blocks
        self.num_dropped = num_dropped
        self.num_written = 0

    @property
    def held(self) -> list[int]:
        """The blocks that it has a reference to."""
        return self.blocks[self.num_dropped :] if self.num_dropped else self.blocks
