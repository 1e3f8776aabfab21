"""How a sequence gets its KV blocks, shares them, and gives them back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import islice

from octavo.engine.kv.block_pool import BlockPool, blocks_for
from octavo.engine.kv.block_table import BlockTable
from octavo.engine.kv.cached_prefix import CachedPrefix, PrefixFinder, group_digest
from octavo.engine.kv.integrity import check_blocks
from octavo.engine.kv.kv_groups import KVGroup, most_blocks
from octavo.engine.kv.offload.kv_offload import KVOffload, Restore
from octavo.engine.kv.pending_blocks import PendingBlocks
from octavo.engine.kv.prefix_cache import KnownBlock, PrefixCache
from octavo.engine.sequence import Sequence
from octavo.runtime.kv_cache import BLOCK_SIZE

Copy = tuple[int, int]
"""A block to copy from, and one to copy to."""


class SequenceBlocks:
    """The block tables of sequences, over the pool that has the blocks and the cache that knows content.

    A sequence has a table for each KV group. Those of groups with a window lose the blocks that no later
    token sees, and while the prompt is computed have no more than what its chunks see and fill.

    It decides nothing: the scheduler says who gets blocks, and preempts when there are none.
    """

    __slots__ = (
        "_chunk",
        "_finder",
        "_groups",
        "_offload",
        "_pending",
        "_pool",
        "_prefix_cache",
        "_windowed",
    )

    def __init__(
        self,
        pool: BlockPool,
        prefix_cache: PrefixCache | None,
        groups: tuple[KVGroup, ...],
        chunk: int,
        offload: KVOffload | None = None,
    ) -> None:
        """`prefix_cache` None computes every prompt in full; `offload` has what fell out of it.

        `chunk` is the most tokens of a sequence in a step.
        """
        self._pool = pool
        self._prefix_cache = prefix_cache
        self._groups = groups
        self._windowed = [(number, group) for number, group in enumerate(groups) if not group.need.keeps_all]
        self._chunk = chunk
        self._pending = PendingBlocks()
        self._offload = offload
        self._finder = PrefixFinder(groups, prefix_cache, offload)

    @property
    def drops(self) -> bool:
        """Whether there is something to `drop`, ever."""
        return bool(self._windowed)

    def num_cached(self, sequence: Sequence) -> int:
        """Tokens that a sequence would not have to compute if it were admitted now."""
        return self._usable(sequence)[0].num_tokens

    def num_releases(self, sequence: Sequence, holders: Iterable[Sequence]) -> int | None:
        """How many of `holders`, in order, must give back their blocks before a sequence can be admitted.

        None if all of them are not enough. Blocks that several of them share are free when the last has
        given them back; those that the sequence finds in the cache make no room for it.
        """
        cached, spare = self._usable(sequence)
        kept, counts = set(cached.held), self._pool.ref_counts
        given: Counter[int] = Counter()
        count = 0
        for holder in holders:
            if spare >= 0:
                break
            held = holder.held_blocks
            given.update(held)
            spare += sum(given[block] == counts[block] for block in held if block not in kept)
            count += 1
        return count if spare >= 0 else None

    def ever_fits(self, sequence: Sequence) -> bool:
        """Whether all blocks together are enough for its tokens."""
        return most_blocks(self._groups, len(sequence.token_ids), self._chunk) <= self._pool.num_blocks

    def waits_for_others(self, sequence: Sequence) -> bool:
        """Whether a sequence does better to wait: another is about to compute what both begin with."""
        if not self._pending or not self._finder.reads_cache(sequence):
            return False
        digests = sequence.block_digests((len(sequence.token_ids) - 1) // BLOCK_SIZE)
        return self._pending.must_wait(sequence, digests, self._finder.num_known(sequence))

    def waits_for_disk(self, sequence: Sequence) -> bool:
        """Whether blocks of a sequence are still being read from disk; begins that where it pays."""
        if self._offload is None or not self._finder.reads_cache(sequence):
            return False
        if sequence.load is None:
            sequence.load = self._finder.load(sequence)
        return not sequence.load.done

    def admit(self, sequence: Sequence, copies: list[Copy], restores: list[Restore]) -> bool:
        """Give a sequence blocks for all its tokens, cached ones first; False, changing nothing, if too few.

        Of a group with a window those that it will have at once. Where the cache has a part of a block, a
        copy of that block is added to `copies`. Where another tier has blocks, they are added to `restores`.
        Both are to be made before the step runs, and `finish_copies` is called after it. Taking all blocks at
        once keeps prompts that are computed side by side from preempting one another.
        """
        cached, spare = self._usable(sequence)
        if spare < 0:
            return False
        data = []
        if self._offload is not None and cached.num_blocks > cached.num_known:
            # Before the pool evicts blocks, which may push these out of their tier.
            data = self._offload.take(self._finder.missing(sequence, cached), sequence.load)
        self._pool.share(cached.held)
        if cached.num_partial_tokens:
            self._pool.share(cached.partial_blocks)
        allocated = self._pool.allocate(self._num_new(sequence, cached))
        assert allocated is not None
        if data:
            restores.append(Restore(allocated[: len(data)], data))
        fresh = iter(allocated)
        # Nothing reads the entries of blocks that are out of the window: any block will do.
        sequence.tables = [
            BlockTable([0] * first + [next(fresh) if block is None else block for block in blocks], first)
            for first, blocks in zip(cached.first, cached.blocks, strict=True)
        ]
        for number, table in enumerate(sequence.tables):
            added = self._end(number, sequence, cached.num_tokens) - len(table.blocks)
            table.blocks += islice(fresh, added)
            if cached.num_partial_tokens:
                copies.append((cached.partial_blocks[number], table.blocks[cached.num_blocks]))
        sequence.num_slots = min(len(table.blocks) for table in sequence.tables) * BLOCK_SIZE
        sequence.has_new_blocks = True
        sequence.next_drop = 0
        sequence.num_computed_tokens = cached.num_tokens
        sequence.num_known_blocks = cached.num_known
        sequence.load = None
        self._count(sequence, cached)
        if self._is_worth_a_wait(sequence):
            self._pending.begin(sequence)
        return True

    def finish_copies(self, copies: list[Copy]) -> None:
        """The copies that `admit` asked for have been made: their sources may be reused."""
        self._pool.free(source for source, _ in copies)

    def grow(self, sequence: Sequence, num_tokens: int) -> bool:
        """Give a running sequence blocks for `num_tokens` tokens; False, changing nothing, if too few."""
        end, tables, missing = blocks_for(num_tokens), sequence.tables, 0
        for table in tables:
            count = end - len(table.blocks)
            if count > 0:
                missing += count
        fresh = self._pool.allocate(missing)
        if fresh is None:
            return False
        for table in tables:
            count = end - len(table.blocks)
            if count > 0:
                table.blocks += fresh[:count]
                fresh = fresh[count:]
        sequence.num_slots = end * BLOCK_SIZE
        sequence.has_new_blocks = True
        return True

    def extend(self, sequence: Sequence) -> None:
        """Give a prompt that goes on blocks in place of those it dropped, as far as there are any."""
        computed, slots = sequence.num_computed_tokens, sequence.num_slots
        wanted = min(self._end(number, sequence, computed) for number, _ in self._windowed) * BLOCK_SIZE
        room = self._pool.num_free // len(self._windowed) * BLOCK_SIZE
        if wanted > slots and room:
            self.grow(sequence, min(wanted, slots + room))

    def offer(self, sequence: Sequence) -> None:
        """Make known to the cache the blocks that are full and computed.

        One whose content another block has already is given back, and that one shared in its place.
        """
        cache = self._prefix_cache
        if cache is None or not sequence.is_cacheable:
            return
        full = sequence.num_computed_tokens // BLOCK_SIZE
        sequence.block_digests(full)
        for index in range(sequence.num_known_blocks, full):
            parent, digest = sequence.digests[index : index + 2]
            tokens = sequence.block_tokens(index, sequence.num_computed_tokens)
            for number, table in enumerate(sequence.tables):
                if index < table.num_dropped:
                    continue
                own, above, block = digest, parent, table.blocks[index]
                if number:
                    own, above = group_digest(digest, number), group_digest(parent, number)
                known = cache.insert(KnownBlock(own, above, tokens, index == 0, number), block)
                if known != block:
                    self._replace(sequence, table, index, known)
            self._pending.known(digest)
        sequence.num_known_blocks = full

    def drop(self, sequence: Sequence) -> None:
        """Give back the blocks that the next token of a sequence does not see, nor any later one."""
        ends = []
        for number, group in self._windowed:
            table = sequence.tables[number]
            end = group.need.first_needed(sequence.num_computed_tokens)
            if end > table.num_dropped:
                self._pool.free(table.blocks[table.num_dropped : end])
                table.num_dropped = end
            ends.append(group.need.reusable_at(table.num_dropped))
        sequence.next_drop = min(ends)

    def finish_prefill(self, sequence: Sequence) -> None:
        """All tokens of a sequence are computed: those of its last block too can be copied by others."""
        self._offer_partial(sequence)
        self._pending.end(sequence)

    def release(self, sequence: Sequence) -> None:
        """Take back all blocks of a sequence, which has nothing computed then."""
        if sequence.has_pending_blocks:
            self._pending.end(sequence)
        offered = self._offer_partial(sequence)
        num_useful = [
            max(0, sequence.num_known_blocks + partial - table.num_dropped)
            for table, partial in zip(sequence.tables, offered, strict=True)
        ]
        held = [table.held for table in sequence.tables]
        for blocks, useful in zip(held, num_useful, strict=True):
            self._pool.free(reversed(blocks[useful:]), useless=True)
        for blocks, useful in zip(held, num_useful, strict=True):
            self._pool.free(reversed(blocks[:useful]))
        sequence.tables = []
        sequence.num_slots = 0
        sequence.num_computed_tokens = 0
        sequence.num_known_blocks = 0
        sequence.load = None

    def check(self, running: Iterable[Sequence], copies: Iterable[Copy] = ()) -> None:
        """Raise BlockIntegrityError unless every block is accounted for.

        `running` are all sequences that have blocks, and `copies` those that `finish_copies` has not been
        told of.
        """
        check_blocks(self._pool, self._prefix_cache, self._pending, running, (source for source, _ in copies))

    def _usable(self, sequence: Sequence) -> tuple[CachedPrefix, int]:
        """What is cached for a sequence, and how many blocks are free beyond all that it needs then."""
        cached = self._finder.find(sequence)
        spare = self._spare(sequence, cached)
        if cached.num_partial_tokens and 0 <= spare < self._num_idle(cached.partial_blocks):
            # The very blocks to copy from are needed; what they hold is computed again instead.
            cached = self._finder.find(sequence, partial=False)
            spare = self._spare(sequence, cached)
        return cached, spare

    def _spare(self, sequence: Sequence, cached: CachedPrefix) -> int:
        return self._pool.num_free - self._num_idle(cached.held) - self._num_new(sequence, cached)

    def _num_idle(self, blocks: list[int]) -> int:
        counts = self._pool.ref_counts
        return sum(counts[block] == 0 for block in blocks)

    def _num_new(self, sequence: Sequence, cached: CachedPrefix) -> int:
        """Blocks to allocate for a sequence that has `cached`."""
        num_tokens = cached.num_tokens
        missing = [blocks.count(None) - cached.num_blocks for blocks in cached.blocks]
        return sum(self._end(number, sequence, num_tokens) + count for number, count in enumerate(missing))

    def _end(self, number: int, sequence: Sequence, num_computed: int) -> int:
        """Entries of table `number` of a sequence that computes its prompt, `num_computed` tokens so far."""
        needed, group = blocks_for(len(sequence.token_ids)), self._groups[number]
        if group.need.keeps_all:
            return needed
        first = group.need.first_needed(num_computed)
        return min(needed, first + group.need.most_blocks(len(sequence.token_ids), self._chunk))

    def _count(self, sequence: Sequence, cached: CachedPrefix) -> None:
        if self._prefix_cache is not None and sequence.is_cacheable and not sequence.was_admitted:
            num_restored = cached.num_blocks - cached.num_known
            num_hits = sequence.num_computed_tokens - num_restored * BLOCK_SIZE
            self._prefix_cache.queries += len(sequence.token_ids)
            self._prefix_cache.hits += num_hits
            if self._offload is not None:
                self._offload.count(len(sequence.token_ids) - num_hits, num_restored)
            sequence.num_cached_tokens = min(sequence.num_computed_tokens, sequence.num_prompt_tokens)
        sequence.was_admitted = True

    def _is_worth_a_wait(self, sequence: Sequence) -> bool:
        """Not one that makes next to nothing known, nor one that wants logits and is slow."""
        if (
            self._prefix_cache is None
            or not sequence.is_cacheable
            or sequence.num_prompt_logprobs is not None
        ):
            return False
        computed, known = sequence.num_computed_tokens, sequence.num_known_blocks * BLOCK_SIZE
        is_restored = computed - known >= BLOCK_SIZE
        return computed == 0 or is_restored or len(sequence.token_ids) - computed > BLOCK_SIZE

    def _replace(self, sequence: Sequence, table: BlockTable, index: int, block: int) -> None:
        """Share `block` in place of a sequence's own one with the same content."""
        self._pool.share([block])
        self._pool.free([table.blocks[index]], useless=True)
        table.blocks[index] = block
        table.num_written = min(table.num_written, index)
        sequence.has_new_blocks = True

    def _offer_partial(self, sequence: Sequence) -> list[bool]:
        """Make known what is computed of the last blocks; False for one with nothing, or known elsewhere."""
        computed, cache = sequence.num_computed_tokens, self._prefix_cache
        full = computed // BLOCK_SIZE
        if cache is None or not sequence.is_cacheable or computed % BLOCK_SIZE == 0:
            return [False] * len(sequence.tables)
        tokens = sequence.block_tokens(full, computed)
        return [
            cache.insert_partial(
                KnownBlock(None, group_digest(sequence.digests[full], number), tokens, full == 0, number),
                table.blocks[full],
            )
            for number, table in enumerate(sequence.tables)
        ]
