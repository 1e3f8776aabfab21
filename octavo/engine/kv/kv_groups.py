"""KV groups: which layers share a block table, and how many blocks a sequence needs for all of them.

Layers that see equally far need the blocks of the same tokens. Where all do there is one group. Otherwise the
layers of each window are cut into groups of about the same size, so that blocks are all alike and any group
can have any block of the one pool: memory goes to whatever lengths there are. Shares of memory, fixed
beforehand, would suit one mix of lengths only. The scheme is that of vLLM's hybrid KV cache manager.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from octavo.engine.kv.block_pool import blocks_for
from octavo.runtime.kv_cache import BLOCK_SIZE, PagedKV

MAX_GROUPS = 8
"""Each has a block table in every step."""


@dataclass(frozen=True, slots=True)
class KVGroup:
    """`layers` see `window` tokens at most, the token's own included; 0 is all."""

    window: int = 0
    layers: tuple[int, ...] = ()

    def first_seen_block(self, position: int) -> int:
        """The first block that the token at `position` sees."""
        return max(0, position - self.window + 1) // BLOCK_SIZE if self.window else 0

    def most_blocks(self, num_tokens: int, chunk: int) -> int:
        """The most blocks that a sequence of `num_tokens` ever has, computed `chunk` tokens at a time."""
        needed = blocks_for(num_tokens)
        if not self.window:
            return needed
        # As many positions as a chunk sees, from the last slot of a block on.
        return min(needed, blocks_for(self.window - 1 + chunk + BLOCK_SIZE - 1))


def most_blocks(groups: tuple[KVGroup, ...], num_tokens: int, chunk: int) -> int:
    """Blocks of all groups together."""
    return sum(group.most_blocks(num_tokens, chunk) for group in groups)


def room_in_tokens(groups: tuple[KVGroup, ...], num_blocks: int, max_model_len: int, chunk: int) -> int:
    """How many tokens `num_blocks` blocks hold, of sequences of `max_model_len`."""
    slots = blocks_for(max_model_len) * BLOCK_SIZE
    return num_blocks * slots // most_blocks(groups, max_model_len, chunk)


def longest_sequence(groups: tuple[KVGroup, ...], num_blocks: int, chunk: int, most: int) -> int:
    """How many tokens, at most `most`, a sequence can have that `num_blocks` blocks hold."""
    return bisect_right(range(1, most + 1), num_blocks, key=lambda length: most_blocks(groups, length, chunk))


def kv_groups(layers: Sequence[PagedKV], max_model_len: int) -> tuple[KVGroup, ...]:
    """The groups of a model's cache layers, those that see all first.

    Of all cuts into at most 8 groups the one with which a sequence of `max_model_len` tokens that decodes
    takes least memory, and of equal ones the one with the fewest groups.
    """
    kinds: dict[int, list[int]] = {}
    for number, layer in enumerate(layers):
        kinds.setdefault(layer.window if layer.window < max_model_len else 0, []).append(number)
    widest = 0 if 0 in kinds else max(kinds, default=0)
    best: tuple[KVGroup, ...] = (KVGroup(widest, tuple(range(len(layers)))),)
    if len(kinds) <= 1:
        return best
    for size in range(max(map(len, kinds.values())), 0, -1):
        cut = tuple(
            KVGroup(window, tuple(kinds[window][start : start + size]))
            for window in sorted(kinds, key=lambda window: (window > 0, -window))
            for start in range(0, len(kinds[window]), size)
        )
        if len(cut) <= MAX_GROUPS and _memory(cut, max_model_len) < _memory(best, max_model_len):
            best = cut
    return best


def _memory(groups: tuple[KVGroup, ...], num_tokens: int) -> int:
    """What a sequence takes, in blocks of one layer."""
    return max(len(group.layers) for group in groups) * most_blocks(groups, num_tokens, 1)
