"""The longest beginning of a sequence that the prefix cache and its tiers have: it is not computed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import takewhile

from octavo.engine.kv.kv_groups import KVGroup
from octavo.engine.kv.offload.disk_reader import Load
from octavo.engine.kv.offload.kv_offload import KVOffload
from octavo.engine.kv.prefix_cache import PrefixCache
from octavo.engine.sequence import Sequence
from octavo.runtime.kv_cache import BLOCK_SIZE


@dataclass(frozen=True, slots=True)
class CachedPrefix:
    """The first `num_blocks` blocks of a sequence, of which the cache alone has `num_known`, and some tokens.

    `blocks[g]` are those of KV group `g` from block `first[g]` on, as those before it are out of the window;
    None is one to restore from another tier. The `num_partial_tokens` after them are the first ones of
    `partial_blocks[g]`.
    """

    num_blocks: int
    num_known: int
    first: list[int]
    blocks: list[list[int | None]]
    partial_blocks: list[int]
    num_partial_tokens: int = 0

    @property
    def num_tokens(self) -> int:
        """Tokens that need not be computed."""
        return self.num_blocks * BLOCK_SIZE + self.num_partial_tokens

    @property
    def held(self) -> list[int]:
        """The blocks that the cache has."""
        return [block for blocks in self.blocks for block in blocks if block is not None]


class PrefixFinder:
    """Looks for the beginnings of sequences, in every KV group.

    A beginning is as good as computed if the groups that see all have its every block, and those with a
    window the blocks that the next token sees.
    """

    __slots__ = ("_cache", "_groups", "_nothing", "_offload")

    def __init__(
        self, groups: tuple[KVGroup, ...], cache: PrefixCache | None, offload: KVOffload | None
    ) -> None:
        self._groups = groups
        self._cache = cache
        self._offload = offload
        count = len(groups)
        self._nothing = CachedPrefix(0, 0, [0] * count, [[] for _ in groups], [0] * count)

    def reads_cache(self, sequence: Sequence) -> bool:
        """Not where the logits of the prompt are wanted, nor where it is to be computed anew."""
        if self._cache is None or not sequence.is_cacheable:
            return False
        anew = sequence.skips_prefix_cache and not sequence.was_admitted
        return not anew and sequence.num_prompt_logprobs is None

    def find(self, sequence: Sequence, *, partial: bool = True) -> CachedPrefix:
        """What to start from: all that is cached but the last token, whose logits are wanted.

        Whole blocks alone where not `partial`.
        """
        if self._cache is None or not self.reads_cache(sequence):
            return self._nothing
        last = len(sequence.token_ids) - 1
        digests = sequence.block_digests(last // BLOCK_SIZE)
        known = end = self._longest(digests, self._cache.blocks.__contains__)
        if self._offload is not None:
            end = self._with_tiers(self._offload, digests, known, sequence.load)
        sources, num_partial = self._nothing.partial_blocks, 0
        if partial:
            parent, tokens = sequence.digests[end], sequence.block_tokens(end, last)
            found = [
                self._cache.match_partial(group_digest(parent, number), tokens)
                for number in range(len(self._groups))
            ]
            sources, num_partial = [block for block, _ in found], min(count for _, count in found)
        position = end * BLOCK_SIZE + num_partial
        first = [min(end, group.need.first_needed(position)) for group in self._groups]
        blocks = [
            list(map(self._cache.blocks.get, group_digests(digests[start:end], number)))
            for number, start in enumerate(first)
        ]
        return CachedPrefix(end, known, first, blocks, sources, num_partial)

    def num_known(self, sequence: Sequence) -> int:
        """Whole blocks at the beginning of a sequence that the cache alone has."""
        if self._cache is None or not self.reads_cache(sequence):
            return 0
        digests = sequence.block_digests((len(sequence.token_ids) - 1) // BLOCK_SIZE)
        return self._longest(digests, self._cache.blocks.__contains__)

    def missing(self, sequence: Sequence, cached: CachedPrefix) -> list[bytes]:
        """The names of the blocks that `cached` has as None, in their order."""
        return [
            group_digest(sequence.digests[1 + index], number)
            for number, (first, blocks) in enumerate(zip(cached.first, cached.blocks, strict=True))
            for index, block in enumerate(blocks, first)
            if block is None
        ]

    def load(self, sequence: Sequence) -> Load:
        """Begin to read from disk what can be had there of a sequence, where that pays."""
        offload, cache = self._offload, self._cache
        if offload is None or cache is None or not offload.most_reads:
            return Load()
        digests = sequence.block_digests((len(sequence.token_ids) - 1) // BLOCK_SIZE)
        known, end = self._longest(digests, cache.blocks.__contains__), len(digests)
        while True:
            end = self._longest(
                digests[:end], lambda digest: digest in cache.blocks or offload.may_have(digest)
            )
            if end <= known:
                return Load()
            wanted = [digest for digest in self._needed(digests, end) if digest not in cache.blocks]
            excess = offload.num_reads(wanted) - offload.most_reads
            if excess <= 0:
                return offload.load(wanted, (end - known) * BLOCK_SIZE, known * BLOCK_SIZE)
            end -= -(-excess // len(self._groups))

    def _with_tiers(self, offload: KVOffload, digests: list[bytes], num_known: int, load: Load | None) -> int:
        """How many blocks there are with those that are in memory elsewhere and worth restoring."""
        cache = self._cache
        assert cache is not None
        end = self._longest(digests, lambda digest: digest in cache.blocks or offload.has(digest, load))
        if end <= num_known:
            return num_known
        count = sum(digest not in cache.blocks for digest in self._needed(digests, end))
        num_tokens = (end - num_known) * BLOCK_SIZE
        return end if offload.is_worth_it(count, num_tokens, num_known * BLOCK_SIZE) else num_known

    def _needed(self, digests: list[bytes], end: int) -> list[bytes]:
        """The names of all blocks that it takes to go on after the first `end`."""
        return [
            digest
            for number, group in enumerate(self._groups)
            for digest in group_digests(digests[group.need.first_needed(end * BLOCK_SIZE) : end], number)
        ]

    def _longest(self, digests: list[bytes], has: Callable[[bytes], bool]) -> int:
        """How many of these blocks are a beginning to go on from, with what `has` says there is."""
        end = len(digests)
        for number, group in enumerate(self._groups):
            if group.need.keeps_all:
                end = sum(1 for _ in takewhile(has, group_digests(digests[:end], number)))
        # An end will do if no window that ends there lacks a block; the last such end is looked for.
        found_from = [end] * len(self._groups)
        complete = False
        while not complete:
            complete = True
            for number, group in enumerate(self._groups):
                if group.need.keeps_all:
                    continue
                first, index = group.need.first_needed(end * BLOCK_SIZE), min(found_from[number], end)
                while index > first and has(group_digest(digests[index - 1], number)):
                    index -= 1
                found_from[number] = index
                if index > first:
                    end, complete = index - 1, False
        return end


def group_digest(digest: bytes, group: int) -> bytes:
    """What names the block of KV group `group` with the tokens of `digest`, which names the first group's."""
    return digest if group == 0 else digest[:-1] + bytes([digest[-1] ^ group])


def group_digests(digests: list[bytes], group: int) -> list[bytes]:
    """`group_digest` of each."""
    return digests if group == 0 else [group_digest(digest, group) for digest in digests]
