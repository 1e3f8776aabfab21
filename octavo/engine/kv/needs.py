"""What a token needs of those before it, by the kind of a layer: all of them, or a window.

A layer kind that needs something else (a chunk, a recurrent state) is one more class here. Positions and
token counts are of a sequence; block `b` holds its tokens from `16 b` to `16 b + 15`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from octavo.engine.kv.block_pool import blocks_for
from octavo.runtime.kv_cache import BLOCK_SIZE, PagedKV


@dataclass(frozen=True, slots=True)
class Full:
    """Every token before it, and itself."""

    keeps_all: ClassVar[bool] = True
    """Whether every block is needed to the end of the sequence."""

    def first_needed(self, position: int) -> int:
        """The first block that the token at `position` needs; it needs all from there on."""
        return 0

    def reusable_at(self, block: int) -> int:
        """How many tokens are computed when no later one needs `block`: more than any sequence has."""
        return 1 << 62

    def most_blocks(self, num_tokens: int, chunk: int) -> int:
        """The most blocks that a sequence of `num_tokens` ever has, computed `chunk` tokens at a time."""
        return blocks_for(num_tokens)


@dataclass(frozen=True, slots=True)
class Window:
    """The last `tokens` tokens, the token's own included."""

    tokens: int
    keeps_all: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.tokens < 1:
            raise ValueError(f"a window must have at least 1 token, got {self.tokens}")

    def first_needed(self, position: int) -> int:
        """See `Full`."""
        return max(0, position - self.tokens + 1) // BLOCK_SIZE

    def reusable_at(self, block: int) -> int:
        """How many tokens are computed when no later one needs `block`: its memory can be reused then."""
        return (block + 1) * BLOCK_SIZE + self.tokens - 1

    def most_blocks(self, num_tokens: int, chunk: int) -> int:
        """See `Full`."""
        # As many positions as a chunk sees, from the last slot of a block on.
        return min(blocks_for(num_tokens), blocks_for(self.tokens - 1 + chunk + BLOCK_SIZE - 1))


def need_of(layer: PagedKV, max_model_len: int) -> Full | Window:
    """What an attention layer needs in sequences of up to `max_model_len` tokens."""
    return Window(layer.window) if 0 < layer.window < max_model_len else Full()
