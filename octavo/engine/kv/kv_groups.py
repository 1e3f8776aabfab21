"""KV groups: which layers share a block table, and how many blocks a sequence needs for all of them.

Layers that see equally far need the blocks of the same tokens. Where all do there is one group. Otherwise the
layers of each need are cut into groups of about the same size. So blocks are all alike, and any group can
have any block of the one pool: memory goes to whatever lengths there are. Shares of memory that are fixed
beforehand would suit one mix of lengths only. The scheme is that of vLLM's hybrid KV cache manager.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from octavo.engine.kv.block_pool import blocks_for
from octavo.engine.kv.needs import Full, Window, need_of
from octavo.runtime.kv_cache import BLOCK_SIZE, PagedKV

MAX_GROUPS = 8
"""Each has a block table in every step."""


_FULL = Full()


@dataclass(frozen=True, slots=True)
class KVGroup:
    """Layers that need the same of a sequence, and so share a block table."""

    need: Full | Window = _FULL
    layers: tuple[int, ...] = ()


def most_blocks(groups: tuple[KVGroup, ...], num_tokens: int, chunk: int) -> int:
    """Blocks of all groups together."""
    return sum(group.need.most_blocks(num_tokens, chunk) for group in groups)


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
    takes least memory, and of equal ones the one with the fewest groups. A block has room for the largest
    group, so a cut gives every group at most so many bytes a token, whatever its layers take.
    """
    # float32 stands for every type: what matters is how the layers compare.
    sizes = [layer.token_bytes("float32") for layer in layers]
    kinds: dict[Full | Window, list[int]] = {}
    for number, layer in enumerate(layers):
        kinds.setdefault(need_of(layer, max_model_len), []).append(number)
    ordered = sorted(kinds, key=_farthest_first)
    best: tuple[KVGroup, ...] = (KVGroup(ordered[0] if ordered else Full(), tuple(range(len(layers)))),)
    if len(kinds) <= 1:
        return best
    bounds = {total for kind in kinds.values() for total in accumulate(sizes[layer] for layer in kind)}
    for bound in sorted(bounds, reverse=True):
        if bound < max(sizes):
            break
        cut = tuple(KVGroup(need, part) for need in ordered for part in _parts(kinds[need], sizes, bound))
        if len(cut) <= MAX_GROUPS and _memory(cut, sizes, max_model_len) < _memory(
            best, sizes, max_model_len
        ):
            best = cut
    return best


def _farthest_first(need: Full | Window) -> tuple[bool, int]:
    return (True, -need.tokens) if isinstance(need, Window) else (False, 0)


def _parts(layers: list[int], sizes: list[int], bound: int) -> list[tuple[int, ...]]:
    """`layers` cut, in order, into parts of at most `bound` bytes a token."""
    parts: list[list[int]] = []
    room = 0
    for layer in layers:
        if sizes[layer] > room:
            parts.append([])
            room = bound
        parts[-1].append(layer)
        room -= sizes[layer]
    return [tuple(part) for part in parts]


def _memory(groups: tuple[KVGroup, ...], sizes: list[int], num_tokens: int) -> int:
    """What a sequence takes, in bytes but for a factor."""
    largest = max(sum(sizes[layer] for layer in group.layers) for group in groups)
    return largest * most_blocks(groups, num_tokens, 1)
