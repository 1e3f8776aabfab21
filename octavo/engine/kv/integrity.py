"""Checks that every KV block is accounted for: references, free list, prefix cache, pending blocks.

For tests and for finding bugs. It looks at every block, so it is no part of a step. With the environment
variable OCTAVO_CHECK_BLOCKS, which names a file, the engine checks its blocks whenever it has become idle. A
violation ends the engine. It is appended to that file too, as an engine process that ends is replaced.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

from octavo.engine.kv.block_pool import BlockPool
from octavo.engine.kv.pending_blocks import PendingBlocks
from octavo.engine.kv.prefix_cache import PrefixCache
from octavo.engine.sequence import Sequence, Status
from octavo.runtime.kv_cache import BLOCK_SIZE

VARIABLE = "OCTAVO_CHECK_BLOCKS"
"""Names the file of violations; unset or empty, the engine does not check."""


class BlockIntegrityError(RuntimeError):
    """A block is not accounted for."""


def report_file() -> Path | None:
    """Where violations are to be written down, None where the engine is not to check."""
    name = os.environ.get(VARIABLE)
    return Path(name) if name else None


def check_blocks(
    pool: BlockPool,
    cache: PrefixCache | None,
    pending: PendingBlocks,
    running: Iterable[Sequence],
    copied_from: Iterable[int] = (),
) -> None:
    """Raise BlockIntegrityError, naming the block or the sequence, unless all blocks are accounted for.

    `running` are all sequences that have blocks; `copied_from` are the blocks that a step which has not ended
    copies from, once for each copy. Takes a few microseconds for each block of the pool.
    """
    sequences = list(running)
    _check_tables(sequences, pool.num_blocks)
    _check_references(pool, sequences, Counter(copied_from))
    _check_free(pool)
    _check_pending(pending, sequences)
    if cache is not None:
        _check_known(cache, pool.num_blocks)
        _check_children(cache)
        for sequence in sequences:
            _check_shared(sequence, cache)


def _check_tables(sequences: list[Sequence], num_blocks: int) -> None:
    """Every sequence has slots for what is computed, in blocks that exist, none of them twice."""
    for sequence in sequences:
        name = f"sequence {sequence.request_id}"
        if sequence.num_computed_tokens > sequence.num_slots:
            raise BlockIntegrityError(
                f"{name} has {sequence.num_computed_tokens} computed tokens in {sequence.num_slots} slots"
            )
        for group, table in enumerate(sequence.tables):
            if len(table.blocks) * BLOCK_SIZE < sequence.num_slots:
                raise BlockIntegrityError(
                    f"{name} has {sequence.num_slots} slots and a table of {len(table.blocks)} blocks in "
                    f"KV group {group}"
                )
        for block, count in Counter(sequence.held_blocks).items():
            if not 0 <= block < num_blocks:
                raise BlockIntegrityError(f"{name} holds block {block}; there are {num_blocks}")
            if count > 1:
                raise BlockIntegrityError(f"{name} holds block {block} {count} times")


def _check_references(pool: BlockPool, sequences: list[Sequence], copied_from: Counter[int]) -> None:
    """A block has as many references as there are sequences that hold it, and copies to be made from it."""
    holders: dict[int, list[str]] = {}
    for sequence in sequences:
        for block in sequence.held_blocks:
            holders.setdefault(block, []).append(sequence.request_id)
    for block, count in enumerate(pool.ref_counts):
        held_by = holders.get(block, [])
        if count != len(held_by) + copied_from[block]:
            names = ", ".join(held_by) or "no sequence"
            raise BlockIntegrityError(
                f"block {block} has a reference count of {count}; it is held by {names}, "
                f"and {copied_from[block]} copies are to be made from it"
            )


def _check_free(pool: BlockPool) -> None:
    """The free blocks are those without a reference."""
    free = set(pool.newest_free())
    for block, count in enumerate(pool.ref_counts):
        if (count == 0) != (block in free):
            state = "is" if block in free else "is not"
            raise BlockIntegrityError(
                f"block {block} has a reference count of {count} and {state} in the free list"
            )


def _check_pending(pending: PendingBlocks, sequences: list[Sequence]) -> None:
    """Blocks are pending only of sequences that run and say so."""
    running = set(map(id, sequences))
    for owner in pending.owners:
        if id(owner) not in running or owner.status is not Status.RUNNING or not owner.has_pending_blocks:
            raise BlockIntegrityError(f"blocks are pending of sequence {owner.request_id}, which makes none")


def _check_known(cache: PrefixCache, num_blocks: int) -> None:
    """Digests lead to the blocks that have them."""
    for digest, block in cache.blocks.items():
        content = cache.known[block] if 0 <= block < num_blocks else None
        if content is None or content.digest != digest:
            raise BlockIntegrityError(
                f"the prefix cache finds block {block} for a digest that it does not have"
            )
    for block, content in enumerate(cache.known):
        if content is not None and content.digest is not None and cache.blocks.get(content.digest) != block:
            raise BlockIntegrityError(f"the prefix cache knows block {block} and does not find it")


def _check_children(cache: PrefixCache) -> None:
    """The children of each digest are sorted, none begins another, and all together are what is known."""
    listed: set[int] = set()
    for parent, children in cache.children.items():
        if not children:
            raise BlockIntegrityError("the prefix cache has a digest with an empty list of children")
        for tokens, block in children:
            content = cache.known[block]
            if content is None or content.parent != parent or content.tokens != tokens or block in listed:
                raise BlockIntegrityError(
                    f"block {block} is a child in the prefix cache with a parent or tokens of another"
                )
            listed.add(block)
        for (left, first), (right, second) in pairwise(children):
            if left >= right or right.startswith(left):
                raise BlockIntegrityError(
                    f"blocks {first} and {second} are children in the wrong order, or one begins the other"
                )
    for block, content in enumerate(cache.known):
        if content is not None and block not in listed:
            raise BlockIntegrityError(f"block {block} is known to the prefix cache and is nobody's child")


def _check_shared(sequence: Sequence, cache: PrefixCache) -> None:
    """What a sequence has offered to the cache, or got from it, is found in its own blocks."""
    for group, table in enumerate(sequence.tables):
        for index in range(table.num_dropped, sequence.num_known_blocks):
            block = table.blocks[index]
            content = cache.known[block]
            if content is None or content.digest is None or content.group != group:
                raise BlockIntegrityError(
                    f"block {block}, number {index} of sequence {sequence.request_id} in KV group {group}, "
                    "is not known to the prefix cache as that"
                )
