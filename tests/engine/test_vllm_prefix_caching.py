"""vLLM's published example of prefix caching, step by step.

Source: vLLM's design document "Automatic Prefix Caching", section "Example", whose blocks have 4 tokens; here
every number of tokens is four times theirs. Where octavo differs, a comment says so.
"""

from __future__ import annotations

import pytest
from support.scheduler_rig import Rig, make_sequence, settings_of

TOKENS = list(range(100, 200))


def known(rig: Rig, blocks: list[int]) -> list[bool]:
    """Which of these blocks are full and can be found."""
    assert rig.cache is not None
    return [
        entry is not None and entry.digest is not None for entry in map(rig.cache.known.__getitem__, blocks)
    ]


def test_the_example_of_the_design_document():
    rig = Rig(settings_of(budget=256), num_blocks=10)

    # Time 1: four blocks are allocated, three of them full and cached; the fourth has 3 of 4 tokens.
    rig.add(zero := make_sequence(0, TOKENS[:60], 20))
    rig.step()
    first = zero.held_blocks
    assert first == [0, 1, 2, 3]
    assert known(rig, first) == [True, True, True, False]

    # Time 3: request 0 makes the fourth block full and asks for a fifth; the fourth is cached.
    for _ in range(5):
        rig.step()
    assert zero.held_blocks == [0, 1, 2, 3, 4]
    assert known(rig, zero.held_blocks) == [True] * 4 + [False]

    # Time 4: of request 1's 14 (56) tokens the first 10 (40) are the same: two blocks hit, since the third
    # matches in 2 of 4 tokens only. octavo copies those 8 tokens, into a block of the request's own.
    rig.add(one := make_sequence(1, TOKENS[:40] + [7] * 16, 4, arrival_time=1.0))
    rig.step()
    assert one.held_blocks[:2] == [0, 1]
    assert one.num_cached_tokens == 40
    assert set(one.held_blocks[2:]) == {5, 6}
    assert rig.pool.ref_counts[:7] == [2, 2, 1, 1, 1, 1, 1]

    # Time 5: request 0 is free; its blocks join the end of the queue in reverse order and stay cached, but
    # for the first two, which request 1 uses.
    rig.scheduler.remove(zero)
    rig.unfinished.remove(zero)
    assert list(rig.pool.newest_free()) == [2, 3, 4, 9, 8, 7]
    assert known(rig, [2, 3]) == [True, True]

    # Time 6: request 1 is free too.
    rig.finish()
    assert [block for block in rig.pool.newest_free() if block in (0, 1)] == [0, 1]
    queue = list(reversed(list(rig.pool.newest_free())))
    assert queue[:6] == [7, 8, 9, 4, 3, 2]

    # Time 7: request 2 has 29 (116) tokens, the first 12 (48) those of request 0. The blocks that hit leave
    # the queue before others are allocated, so the free ones go in the order 7, 8, 9, 4, 3; 3 is evicted.
    rig.add(two := make_sequence(2, TOKENS[:48] + [9] * 68, 4, arrival_time=2.0))
    rig.step()
    assert two.held_blocks == [0, 1, 2, 7, 8, 9, 4, 3]
    assert two.num_cached_tokens == 48


@pytest.mark.parametrize(("length", "hits"), [(33, [32, 32]), (49, [32, 16]), (65, [32, 0])])
def test_blocks_are_evicted_one_by_one_when_they_are_needed(length: int, hits: list[int]):
    """The least recently used first, of one request its last first; those without content before all."""
    rig = Rig(settings_of(budget=256), num_blocks=8)
    for number in range(2):  # Three blocks each, so that two are left.
        rig.add(make_sequence(number, [number] * 33, 1, arrival_time=float(number)))
        rig.finish()
    rig.add(make_sequence(2, [5] * length, 1, arrival_time=2.0))
    rig.finish()
    lookups = [make_sequence(3 + number, [number] * 32 + [8]) for number in (1, 0)]
    found = [rig.scheduler._blocks.num_cached(each) for each in lookups]
    assert found == hits


def test_only_the_salt_of_a_request_finds_what_it_left():
    """ "Only requests with the same salt can reuse cached KV blocks", told apart from the first block on."""
    rig = Rig(settings_of(budget=256), num_blocks=32)
    hits = {}
    for number, salt in enumerate(["a", "b", "", "a", "b", ""]):
        rig.add(
            sequence := make_sequence(number, TOKENS[:60], 1, arrival_time=float(number), cache_salt=salt)
        )
        rig.finish()
        hits[number] = sequence.num_cached_tokens
    assert hits == {0: 0, 1: 0, 2: 0, 3: 59, 4: 59, 5: 59}
