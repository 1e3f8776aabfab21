"""Blocks are neither leaked nor given twice, and the one free for longest is reused first."""

from __future__ import annotations

import pytest

from octavo.engine.kv.block_pool import BlockPool, blocks_for


def test_least_recently_freed_is_taken_first():
    pool = BlockPool(4)
    assert pool.allocate(4) == [0, 1, 2, 3]
    pool.free([2, 0, 3, 1])
    assert pool.allocate(3) == [2, 0, 3]


def test_too_many_changes_nothing():
    pool = BlockPool(3)
    pool.allocate(1)
    assert pool.allocate(3) is None
    assert pool.num_free == 2
    assert pool.allocate(2) == [1, 2]


def test_shared_block_is_free_when_the_last_reference_goes():
    pool = BlockPool(2)
    (block,) = pool.allocate(1)
    pool.share([block])
    pool.free([block])
    assert pool.num_free == 1
    pool.free([block])
    assert pool.num_free == 2


def test_sharing_a_free_block_takes_it_out_of_the_free_list():
    pool = BlockPool(2)
    pool.share([0])
    assert pool.allocate(2) is None
    assert pool.allocate(1) == [1]


def test_it_knows_how_far_it_was_ever_used_and_what_was_freed_last():
    pool = BlockPool(5)
    assert pool.num_touched == 0
    pool.free(pool.allocate(3))
    assert pool.num_touched == 3
    assert list(pool.newest_free()) == [2, 1, 0, 4, 3]
    for _ in range(4):
        pool.free(pool.allocate(1))
    assert pool.num_touched == 5


def test_reuse_is_announced_for_every_block_handed_out():
    pool, reused = BlockPool(3), []
    pool.on_reuse(reused.append)
    blocks = pool.allocate(2)
    pool.share(blocks)
    assert reused == blocks


def test_double_free_is_an_error():
    pool = BlockPool(1)
    pool.free(pool.allocate(1))
    with pytest.raises(ValueError, match="block 0 is freed twice"):
        pool.free([0])
    assert pool.num_free == 1


def test_a_pool_has_blocks():
    with pytest.raises(ValueError, match="num_blocks"):
        BlockPool(0)


def test_blocks_for():
    assert [blocks_for(n) for n in (0, 1, 16, 17, 32)] == [0, 1, 1, 2, 2]
