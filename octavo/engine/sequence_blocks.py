"""How a sequence gets its KV blocks, shares them, and gives them back."""

from __future__ import annotations

from array import array

from octavo.engine.block_pool import BlockPool, blocks_for
from octavo.engine.prefix_cache import KnownBlock, PrefixCache
from octavo.engine.sequence import Sequence
from octavo.runtime.backend import BLOCK_SIZE


class SequenceBlocks:
    """The block tables of sequences, over the pool that has the blocks and the cache that knows content.

    It decides nothing: the scheduler says who gets blocks, and preempts when there are none.
    """

    __slots__ = ("_pool", "_prefix_cache")

    def __init__(self, pool: BlockPool, prefix_cache: PrefixCache | None) -> None:
        """`prefix_cache` None computes every prompt in full."""
        self._pool = pool
        self._prefix_cache = prefix_cache

    def num_cached(self, sequence: Sequence) -> int:
        """Tokens that a sequence would not have to compute if it were admitted now."""
        return len(self._match(sequence)) * BLOCK_SIZE

    def shortage(self, sequence: Sequence) -> int:
        """Blocks that must become free before a sequence can be admitted; 0 or less when it can."""
        cached = self._match(sequence)
        idle = sum(self._pool.ref_counts[block] == 0 for block in cached)
        return blocks_for(len(sequence.token_ids)) - len(cached) - (self._pool.num_free - idle)

    def exclusive(self, sequence: Sequence) -> int:
        """Blocks that would become free if a sequence gave back its own."""
        return sum(self._pool.ref_counts[block] == 1 for block in sequence.block_table)

    def ever_fits(self, sequence: Sequence) -> bool:
        """Whether all blocks together are enough for its tokens."""
        return blocks_for(len(sequence.token_ids)) <= self._pool.num_blocks

    def admit(self, sequence: Sequence) -> bool:
        """Give a sequence blocks for all its tokens, cached ones first; False, changing nothing, if too few.

        Taking all blocks at once keeps prompts that are computed side by side from preempting one another.
        """
        if self.shortage(sequence) > 0:
            return False
        cached = self._match(sequence)
        self._pool.share(cached)
        blocks = self._pool.allocate(blocks_for(len(sequence.token_ids)) - len(cached))
        assert blocks is not None
        sequence.block_table = cached + blocks
        sequence.num_computed_tokens = len(cached) * BLOCK_SIZE
        sequence.num_known_blocks = len(cached)
        if self._prefix_cache is not None and not sequence.was_admitted:
            self._prefix_cache.queries += len(sequence.token_ids)
            self._prefix_cache.hits += sequence.num_computed_tokens
            sequence.num_cached_tokens = min(sequence.num_computed_tokens, sequence.num_prompt_tokens)
        sequence.was_admitted = True
        return True

    def grow(self, sequence: Sequence, num_tokens: int) -> bool:
        """Give a running sequence blocks for `num_tokens` tokens; False, changing nothing, if too few."""
        blocks = self._pool.allocate(blocks_for(num_tokens) - len(sequence.block_table))
        if blocks is None:
            return False
        sequence.block_table += blocks
        return True

    def offer(self, sequence: Sequence) -> None:
        """Make known to the cache the blocks that are full and computed."""
        if self._prefix_cache is None:
            return
        known, full = sequence.num_known_blocks, sequence.num_computed_tokens // BLOCK_SIZE
        digests = sequence.block_digests(full)
        for index in range(known, full):
            tokens = array("i", sequence.token_ids[index * BLOCK_SIZE : (index + 1) * BLOCK_SIZE])
            content = KnownBlock(digests[index], digests[index - 1] if index else None, tokens)
            self._prefix_cache.insert(content, sequence.block_table[index])
        sequence.num_known_blocks = full

    def release(self, sequence: Sequence) -> None:
        """Take back all blocks of a sequence, which has nothing computed then."""
        self._pool.free(reversed(sequence.block_table))
        sequence.block_table = []
        sequence.num_computed_tokens = 0

    def _match(self, sequence: Sequence) -> list[int]:
        """Cached blocks to start from: not the last token, whose logits are wanted, and none where those of
        the prompt are."""
        if self._prefix_cache is None or sequence.num_prompt_logprobs is not None:
            return []
        return self._prefix_cache.match(sequence.block_digests((len(sequence.token_ids) - 1) // BLOCK_SIZE))
