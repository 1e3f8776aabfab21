"""How a sequence gets its KV blocks, shares them, and gives them back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace

from octavo.engine.block_pool import BlockPool, blocks_for
from octavo.engine.kv_offload.kv_offload import KVOffload, Restore
from octavo.engine.pending_blocks import PendingBlocks
from octavo.engine.prefix_cache import KnownBlock, PrefixCache
from octavo.engine.sequence import Sequence
from octavo.runtime.backend import BLOCK_SIZE

Copy = tuple[int, int]
"""A block to copy from, and one to copy to."""


@dataclass(frozen=True, slots=True)
class _Cached:
    """What the cache has of a sequence: full blocks, and elsewhere the first tokens of the one after.

    Of those blocks the first `num_dropped` are out of the attention window and not needed. Between them and
    the partial one come `num_restorable` that can be restored from another tier.
    """

    blocks: list[int]
    partial_block: int = 0
    num_partial_tokens: int = 0
    num_dropped: int = 0
    num_restorable: int = 0

    @property
    def num_blocks(self) -> int:
        return self.num_dropped + len(self.blocks)

    @property
    def end(self) -> int:
        return self.num_blocks + self.num_restorable

    @property
    def num_tokens(self) -> int:
        return self.end * BLOCK_SIZE + self.num_partial_tokens


class SequenceBlocks:
    """The block tables of sequences, over the pool that has the blocks and the cache that knows content.

    It decides nothing: the scheduler says who gets blocks, and preempts when there are none.
    """

    __slots__ = ("_offload", "_pending", "_pool", "_prefix_cache", "_window")

    def __init__(
        self,
        pool: BlockPool,
        prefix_cache: PrefixCache | None,
        window: int = 0,
        offload: KVOffload | None = None,
    ) -> None:
        """`prefix_cache` None computes every prompt in full; `offload` has what fell out of it.

        `window` is how many tokens a query sees at most, itself included, in every layer; 0 is all. Blocks
        that no later query will see are given back.
        """
        self._pool = pool
        self._prefix_cache = prefix_cache
        self._window = window
        self._pending = PendingBlocks()
        self._offload = offload

    def num_cached(self, sequence: Sequence) -> int:
        """Tokens that a sequence would not have to compute if it were admitted now."""
        return self._usable(sequence)[0].num_tokens

    def num_releases(self, sequence: Sequence, holders: Iterable[Sequence]) -> int | None:
        """How many of `holders`, in order, must give back their blocks before a sequence can be admitted.

        None if all of them are not enough. Blocks that several of them share are free when the last has
        given them back; those that the sequence finds in the cache make no room for it.
        """
        cached, spare = self._usable(sequence)
        kept, counts = set(cached.blocks), self._pool.ref_counts
        given: Counter[int] = Counter()
        count = 0
        for holder in holders:
            if spare >= 0:
                break
            given.update(holder.held_blocks)
            spare += sum(given[block] == counts[block] for block in holder.held_blocks if block not in kept)
            count += 1
        return count if spare >= 0 else None

    def ever_fits(self, sequence: Sequence) -> bool:
        """Whether all blocks together are enough for its tokens."""
        return blocks_for(len(sequence.token_ids)) <= self._pool.num_blocks

    def waits_for_others(self, sequence: Sequence) -> bool:
        """Whether a sequence does better to wait: another is about to compute what both begin with."""
        if not self._pending or not self._reads_cache(sequence):
            return False
        assert self._prefix_cache is not None
        digests = sequence.block_digests((len(sequence.token_ids) - 1) // BLOCK_SIZE)
        return self._pending.must_wait(sequence, digests, self._match(sequence).num_blocks)

    def waits_for_disk(self, sequence: Sequence) -> bool:
        """Whether blocks of a sequence are still being read from disk; begins that where it pays."""
        if self._offload is None or not self._reads_cache(sequence):
            return False
        if sequence.load is None:
            start = self._match(sequence).end
            digests = sequence.block_digests((len(sequence.token_ids) - 1) // BLOCK_SIZE)
            sequence.load = self._offload.load(digests[start:], start * BLOCK_SIZE)
        return not sequence.load.done

    def admit(self, sequence: Sequence, copies: list[Copy], restores: list[Restore]) -> bool:
        """Give a sequence blocks for all its tokens, cached ones first; False, changing nothing, if too few.

        Where the cache has a part of a block, a copy of that block is added to `copies`, and where another
        tier has blocks, they are added to `restores`, to be made before the step runs; `finish_copies` comes
        after. Taking all blocks at once keeps prompts that are computed side by side from preempting one
        another.
        """
        cached, spare = self._usable(sequence)
        if spare < 0:
            return False
        data = []
        if self._offload is not None and cached.num_restorable:
            # Before the pool evicts blocks, which may push these out of their tier.
            wanted = sequence.digests[1 + cached.num_blocks : 1 + cached.end]
            data = self._offload.take(wanted, sequence.load)
        self._pool.share(cached.blocks)
        if cached.num_partial_tokens:
            self._pool.share([cached.partial_block])
        blocks = self._pool.allocate(blocks_for(len(sequence.token_ids)) - cached.num_blocks)
        assert blocks is not None
        if cached.num_partial_tokens:
            copies.append((cached.partial_block, blocks[cached.num_restorable]))
        if data:
            restores.append(Restore(blocks[: len(data)], data))
        # Nothing reads the entries of blocks that are out of the window: any block will do.
        sequence.block_table = [0] * cached.num_dropped + cached.blocks + blocks
        sequence.num_dropped_blocks = cached.num_dropped
        sequence.num_computed_tokens = cached.num_tokens
        sequence.num_known_blocks = cached.num_blocks
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
        blocks = self._pool.allocate(blocks_for(num_tokens) - len(sequence.block_table))
        if blocks is None:
            return False
        sequence.block_table += blocks
        return True

    def offer(self, sequence: Sequence) -> None:
        """Make known to the cache the blocks that are full and computed.

        One whose content another block has already is given back, and that one shared in its place.
        """
        cache = self._prefix_cache
        if cache is None or not sequence.is_cacheable:
            return
        table, full = sequence.block_table, sequence.num_computed_tokens // BLOCK_SIZE
        sequence.block_digests(full)
        for index in range(sequence.num_known_blocks, full):
            parent, digest = sequence.digests[index : index + 2]
            tokens = sequence.block_tokens(index, sequence.num_computed_tokens)
            block = cache.insert(KnownBlock(digest, parent, tokens, index == 0), table[index])
            if block != table[index]:
                self._pool.share([block])
                self._pool.free([table[index]], useless=True)
                table[index] = block
                sequence.num_written_blocks = min(sequence.num_written_blocks, index)
            self._pending.known(digest)
        sequence.num_known_blocks = full

    def drop(self, sequence: Sequence) -> None:
        """Give back the blocks that the next token of a sequence does not see, nor any later one."""
        dropped = sequence.num_dropped_blocks
        end = self._first_seen_block(sequence.num_computed_tokens)
        if end > dropped:
            self._pool.free(sequence.block_table[dropped:end])
            sequence.num_dropped_blocks = end

    def finish_prefill(self, sequence: Sequence) -> None:
        """All tokens of a sequence are computed: those of its last block too can be copied by others."""
        self._offer_partial(sequence)
        self._pending.end(sequence)

    def release(self, sequence: Sequence) -> None:
        """Take back all blocks of a sequence, which has nothing computed then."""
        if sequence.has_pending_blocks:
            self._pending.end(sequence)
        useful = sequence.num_known_blocks + self._offer_partial(sequence) - sequence.num_dropped_blocks
        held = sequence.held_blocks
        self._pool.free(reversed(held[max(0, useful) :]), useless=True)
        self._pool.free(reversed(held[: max(0, useful)]))
        sequence.block_table = []
        sequence.num_dropped_blocks = 0
        sequence.num_computed_tokens = 0
        sequence.num_known_blocks = 0
        sequence.load = None

    def _match(self, sequence: Sequence) -> _Cached:
        """What to start from: all that is cached but the last token, whose logits are wanted."""
        if not self._reads_cache(sequence):
            return _Cached([])
        assert self._prefix_cache is not None
        last = len(sequence.token_ids) - 1
        digests = sequence.block_digests(last // BLOCK_SIZE)
        if self._window:
            num_dropped, blocks = self._match_window(digests)
        else:
            num_dropped, blocks = 0, self._prefix_cache.match(digests)
        end = num_dropped + len(blocks)
        num_restorable = 0
        if self._offload is not None:
            num_restorable = self._offload.num_restorable(digests[end:], sequence.load, end * BLOCK_SIZE)
            end += num_restorable
        partial = self._prefix_cache.match_partial(sequence.digests[end], sequence.block_tokens(end, last))
        return _Cached(blocks, *partial, num_dropped, num_restorable)

    def _match_window(self, digests: list[bytes]) -> tuple[int, list[int]]:
        """The longest prefix whose last blocks are known, those that what follows it sees.

        Returns how many blocks before those need not be known, and them.
        """
        assert self._prefix_cache is not None
        blocks, best, start = [self._prefix_cache.find(digest) for digest in digests], 0, 0
        for end, block in enumerate(blocks, 1):
            if block is None:
                start = end
            elif start <= self._first_seen_block(end * BLOCK_SIZE):
                best = end
        first = self._first_seen_block(best * BLOCK_SIZE)
        return first, [block for block in blocks[first:best] if block is not None]

    def _first_seen_block(self, position: int) -> int:
        """The first block that the token at `position` sees."""
        return max(0, position - self._window + 1) // BLOCK_SIZE if self._window else 0

    def _reads_cache(self, sequence: Sequence) -> bool:
        """Not where the logits of the prompt are wanted, nor where it is to be computed anew."""
        if self._prefix_cache is None or not sequence.is_cacheable:
            return False
        anew = sequence.skips_prefix_cache and not sequence.was_admitted
        return not anew and sequence.num_prompt_logprobs is None

    def _usable(self, sequence: Sequence) -> tuple[_Cached, int]:
        """What is cached for a sequence, and how many blocks are free beyond all that it needs then."""
        cached, counts = self._match(sequence), self._pool.ref_counts
        idle = sum(counts[block] == 0 for block in cached.blocks)
        needed = blocks_for(len(sequence.token_ids)) - cached.num_blocks
        spare = self._pool.num_free - idle - needed
        if spare == 0 and counts[cached.partial_block] == 0:
            # The very block to copy from is needed; what it holds is computed again instead.
            cached = replace(cached, num_partial_tokens=0)
        return cached, spare

    def _count(self, sequence: Sequence, cached: _Cached) -> None:
        if self._prefix_cache is not None and sequence.is_cacheable and not sequence.was_admitted:
            num_hits = sequence.num_computed_tokens - cached.num_restorable * BLOCK_SIZE
            self._prefix_cache.queries += len(sequence.token_ids)
            self._prefix_cache.hits += num_hits
            if self._offload is not None:
                self._offload.count(len(sequence.token_ids) - num_hits, cached.num_restorable)
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

    def _offer_partial(self, sequence: Sequence) -> bool:
        """Make known what is computed of the last block; False if that is nothing, or known elsewhere."""
        computed = sequence.num_computed_tokens
        full = computed // BLOCK_SIZE
        if self._prefix_cache is None or not sequence.is_cacheable or computed % BLOCK_SIZE == 0:
            return False
        tokens = sequence.block_tokens(full, computed)
        content = KnownBlock(None, sequence.digests[full], tokens, full == 0)
        return self._prefix_cache.insert_partial(content, sequence.block_table[full])
