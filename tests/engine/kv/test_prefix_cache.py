"""What the cache knows and forgets; what sequences make of it is in test_sequence_blocks."""

from __future__ import annotations

from support.known_beginning import known_beginning

from octavo.engine.kv.block_hash import BlockHasher, token_bytes
from octavo.engine.kv.block_pool import BlockPool
from octavo.engine.kv.prefix_cache import KnownBlock, PrefixCache
from octavo.runtime.kv_cache import BLOCK_SIZE

HASHER = BlockHasher()
ROOT = HASHER.root("")


def content(*blocks: int) -> list[int]:
    """The tokens of full blocks, each of one repeated token."""
    return [token for token in blocks for _ in range(BLOCK_SIZE)]


class Filled:
    """A cache that knows one chain of blocks, which are held."""

    def __init__(self, num_blocks: int, *blocks: int) -> None:
        self.pool = BlockPool(num_blocks)
        self.cache = PrefixCache(self.pool)
        self.tokens = content(*blocks)
        self.digests = HASHER.chain(ROOT, self.tokens)
        self.table = self.pool.allocate(len(blocks))
        parents = [ROOT, *self.digests]
        for index, block in enumerate(self.table):
            each = KnownBlock(self.digests[index], parents[index], self.tokens_of(index), index == 0)
            self.cache.insert(each, block)

    def tokens_of(self, index: int) -> bytes:
        return token_bytes(self.tokens[index * BLOCK_SIZE : (index + 1) * BLOCK_SIZE])


def test_leaves_are_evicted_before_their_parents():
    filled = Filled(5, 1, 2, 3, 4, 5)
    filled.pool.free(reversed(filled.table))
    for left in (4, 3, 2, 1, 0):
        filled.pool.allocate(1)
        assert known_beginning(filled.cache, filled.digests) == filled.table[:left]


def test_full_blocks_are_announced_before_they_are_evicted():
    filled, evicted = Filled(3, 1, 2), []
    filled.cache.on_evict(lambda digest, block: evicted.append((digest, block)))
    (tail,) = filled.pool.allocate(1)
    filled.cache.insert_partial(KnownBlock(None, filled.digests[1], token_bytes([7]), False), tail)
    filled.pool.free([tail, *reversed(filled.table)])
    filled.pool.allocate(3)
    assert evicted == [(filled.digests[1], filled.table[1]), (filled.digests[0], filled.table[0])]


def test_the_first_of_two_equal_blocks_stays():
    filled = Filled(2, 1)
    (second,) = filled.pool.allocate(1)
    known = filled.cache.insert(KnownBlock(filled.digests[0], ROOT, filled.tokens_of(0), True), second)
    assert [known] == filled.table == known_beginning(filled.cache, filled.digests)
    filled.pool.free([second])
    filled.pool.allocate(1)
    assert known_beginning(filled.cache, filled.digests) == filled.table


def test_a_longer_partial_block_replaces_a_shorter_one_which_is_then_reused_first():
    filled = Filled(6, 1)
    parent = filled.digests[0]

    def insert(tokens: list[int], block: int) -> bool:
        return filled.cache.insert_partial(KnownBlock(None, parent, token_bytes(tokens), False), block)

    shorter, longer = filled.pool.allocate(2)
    assert insert([5, 6], shorter)
    filled.pool.free([*filled.table, shorter])
    assert insert([5, 6, 7], longer)
    assert filled.cache.match_partial(parent, token_bytes([5, 6, 7, 8])) == (longer, 3)
    assert filled.pool.allocate(1) == [shorter]
    assert not insert([5], shorter)


def test_a_part_of_a_full_block_is_found():
    filled = Filled(2, 1, 2)
    assert filled.cache.match_partial(filled.digests[0], token_bytes([2, 2, 2, 1])) == (filled.table[1], 3)
    assert filled.cache.match_partial(filled.digests[0], token_bytes([1, 2])) == (0, 0)
    assert filled.cache.match_partial(filled.digests[1], token_bytes([2, 2])) == (0, 0)
    assert filled.cache.match_partial(ROOT, token_bytes([])) == (0, 0)


def test_reset_forgets_what_nobody_holds():
    filled = Filled(4, 1, 2, 3)
    filled.pool.free(reversed(filled.table[1:]))
    filled.cache.reset()
    assert known_beginning(filled.cache, filled.digests) == filled.table[:1]
    assert len(filled.cache) == 1
    assert filled.cache.match_partial(filled.digests[0], filled.tokens_of(1)) == (0, 0)
