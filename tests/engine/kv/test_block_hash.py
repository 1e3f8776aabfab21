"""Digests of blocks: chained, and apart where anything differs."""

from __future__ import annotations

import dataclasses

import pytest

from octavo.config import EngineConfig, Flag
from octavo.engine.kv.block_hash import HASH_ALGORITHMS, BlockHasher
from octavo.runtime.kv_cache import BLOCK_SIZE


@pytest.mark.parametrize("algorithm", HASH_ALGORITHMS)
def test_digests_are_chained(algorithm: str):
    hasher = BlockHasher(algorithm)
    tokens = list(range(3 * BLOCK_SIZE + 5))
    whole = hasher.chain(hasher.root(), tokens)
    assert len(whole) == 3
    assert {len(digest) for digest in whole} == {32}
    assert whole == whole[:1] + hasher.chain(whole[0], tokens[BLOCK_SIZE:])
    assert hasher.chain(hasher.root(), tokens[: BLOCK_SIZE - 1]) == []
    assert len({hasher.partial(whole[0], tokens[:count]) for count in range(BLOCK_SIZE)}) == BLOCK_SIZE


def test_an_extra_key_names_its_block_and_all_that_follow():
    """Two images have the same placeholder tokens: nobody may be handed the other's blocks."""
    hasher, tokens = BlockHasher(), [7] * (4 * BLOCK_SIZE)
    plain = hasher.chain(hasher.root(), tokens)
    one = hasher.chain(hasher.root(), tokens, {1: b"image one, offset 3"})
    other = hasher.chain(hasher.root(), tokens, {1: b"image two, offset 3"})
    assert plain[0] == one[0] == other[0]
    assert len({*plain[1:], *one[1:], *other[1:]}) == 9
    assert one == one[:1] + hasher.chain(one[0], tokens[BLOCK_SIZE:], {0: b"image one, offset 3"})


def test_roots_depend_on_every_part_and_on_where_one_ends():
    hasher = BlockHasher()
    parts = [(), ("",), ("a",), ("ab",), ("a", "b"), ("", "ab"), ("ab", "")]
    assert len({hasher.root(*each) for each in parts}) == len(parts)


def test_unknown_hash_algorithm():
    with pytest.raises(ValueError, match="sha256, blake2b, got 'md5'"):
        BlockHasher("md5")


def test_the_flag_offers_all_algorithms():
    flags = {field.name: Flag.of(field) for field in dataclasses.fields(EngineConfig)}
    assert flags["prefix_caching_hash_algo"].choices == HASH_ALGORITHMS
