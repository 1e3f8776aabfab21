"""Sequences come, share, are forked, grow, are preempted and go, against a memory that is really written.

The memory holds a token in each slot. Whoever runs must find its own tokens there, whatever was shared,
copied, given back or evicted on the way.
"""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from support.blocks_rig import HASHER, MAX_LEN, NUM_BLOCKS, Rig, make_sequence

from octavo.engine.kv.cached_prefix import group_digest
from octavo.engine.sequence import Sequence, Status

BEGINNINGS = [[base + position for position in range(MAX_LEN - 8)] for base in (100, 300)]


class Machine(RuleBasedStateMachine):
    windows: tuple[int, ...] = (0,)
    num_blocks = NUM_BLOCKS
    chunk = MAX_LEN

    def __init__(self) -> None:
        super().__init__()
        self.rig = Rig(self.num_blocks, self.windows, self.chunk)
        self.waiting: list[Sequence] = []
        self.number = 0

    def begin_with(self, prompt: list[int], **options) -> None:
        self.number += 1
        self.waiting.append(make_sequence(self.number, prompt, **options))

    @rule(
        beginning=st.sampled_from(BEGINNINGS),
        length=st.integers(0, MAX_LEN - 8),
        end=st.lists(st.integers(1, 2), min_size=1, max_size=7),
        salt=st.sampled_from(["", "", "salt"]),
        skip=st.sampled_from([False, False, True]),
        hasher=st.sampled_from([HASHER, HASHER, None]),
    )
    def begin(self, beginning, length, end, **options) -> None:
        self.begin_with(beginning[:length] + end, **options)

    @precondition(lambda self: self.rig.running)
    @rule(data=st.data())
    def fork(self, data: st.DataObject) -> None:
        self.begin_with(list(data.draw(st.sampled_from(self.rig.running)).token_ids[: MAX_LEN - 1]))

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def admit(self, data: st.DataObject) -> None:
        sequence = data.draw(st.sampled_from(self.waiting))
        waits = self.rig.blocks.waits_for_others(sequence)
        if waits:
            assert any(each.order < sequence.order and each.has_pending_blocks for each in self.rig.running)
        if waits and data.draw(st.booleans()):
            return
        fits = self.rig.blocks.num_releases(sequence, []) == 0
        expected = self.rig.blocks.num_cached(sequence)
        assert self.rig.admit(sequence) is fits
        if fits:
            self.waiting.remove(sequence)
            assert sequence.num_computed_tokens == expected < len(sequence)

    @precondition(lambda self: self.rig.running)
    @rule(data=st.data(), count=st.integers(1, MAX_LEN))
    def compute(self, data: st.DataObject, count: int) -> None:
        sequence = data.draw(st.sampled_from(self.rig.running))
        self.rig.compute(sequence, min(count, len(sequence) - sequence.num_computed_tokens))

    @precondition(lambda self: self.rig.running)
    @rule(data=st.data(), tokens=st.lists(st.integers(1, 2), min_size=1, max_size=20))
    def decode(self, data: st.DataObject, tokens: list[int]) -> None:
        sequence = data.draw(st.sampled_from(self.rig.running))
        for token in tokens:
            if sequence.num_computed_tokens < len(sequence) or len(sequence) == MAX_LEN:
                return
            if not self.rig.blocks.grow(sequence, len(sequence) + 1):
                assert self.rig.pool.num_free < len(self.windows)
                return
            sequence.token_ids.append(token)
            self.rig.compute(sequence, 1)

    @precondition(lambda self: self.rig.running)
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        self.rig.leave(data.draw(st.sampled_from(self.rig.running)), Status.FINISHED)

    @precondition(lambda self: self.rig.running)
    @rule(data=st.data())
    def preempt(self, data: st.DataObject) -> None:
        sequence = data.draw(st.sampled_from(self.rig.running))
        self.rig.leave(sequence, Status.WAITING)
        self.waiting.append(sequence)

    @precondition(lambda self: self.waiting and self.rig.running)
    @rule(data=st.data())
    def preempt_for(self, data: st.DataObject) -> None:
        """As many as are needed give way, and not one more."""
        head = data.draw(st.sampled_from(self.waiting))
        holders = data.draw(st.permutations(self.rig.running))
        count = self.rig.blocks.num_releases(head, holders)
        assert count is not None
        for victim in holders[:count]:
            assert self.rig.blocks.num_releases(head, []) is None
            self.rig.leave(victim, Status.WAITING)
            self.waiting.append(victim)
        assert self.rig.blocks.num_releases(head, []) == 0

    @rule()
    def reset(self) -> None:
        self.rig.cache.reset()
        counts = self.rig.pool.ref_counts
        assert all(counts[block] for block, entry in enumerate(self.rig.cache.known) if entry)

    @invariant()
    def everything_adds_up(self) -> None:
        self.rig.check()
        if not any(each.has_pending_blocks for each in self.rig.running):
            assert not self.rig.blocks._pending

    def teardown(self) -> None:
        for sequence in list(self.rig.running):
            self.rig.leave(sequence, Status.FINISHED)
        self.rig.check()
        assert self.rig.pool.num_free == self.num_blocks


class WindowMachine(Machine):
    """Each token sees the 20 before it."""

    windows = (21,)
    chunk = 10


class HybridMachine(Machine):
    """Layers that see all, and layers that see the 16 or 32 tokens before the last."""

    windows = (0, 33, 17)
    num_blocks = 17
    chunk = 30


Machine.TestCase.settings = settings(max_examples=120, stateful_step_count=40, deadline=None)
HybridMachine.TestCase.settings = WindowMachine.TestCase.settings = settings(
    max_examples=80, stateful_step_count=40, deadline=None
)
test_machine = Machine.TestCase
test_window_machine = WindowMachine.TestCase
test_hybrid_machine = HybridMachine.TestCase


def test_blocks_out_of_the_window_are_given_back_and_still_found():
    rig = Rig(num_blocks=8, windows=(17,))
    first = make_sequence(0, list(range(64)))
    rig.admit(first)
    assert rig.pool.num_free == 4
    rig.compute(first, 64)
    assert rig.pool.num_free == 7
    rig.check()
    rig.leave(first, Status.FINISHED)
    # The blocks before the last are not needed to go on from it.
    for block in first_blocks(rig, 3):
        rig.cache._forget(block)
    again = make_sequence(1, list(range(70)))
    assert rig.blocks.num_cached(again) == 64
    assert rig.admit(again)
    assert len(again.held_blocks) == 2
    rig.compute(again, 6)
    rig.check()


def test_what_is_dropped_is_out_of_the_window_wherever_chunks_end():
    for chunk in (1, 7, 16, 30, 75):
        rig = Rig(num_blocks=20, windows=(0, 33, 17), chunk=chunk)
        sequence = make_sequence(0, list(range(75)))
        rig.admit(sequence)
        while sequence.num_computed_tokens < 75:
            rig.compute(sequence, min(chunk, 75 - sequence.num_computed_tokens))
            rig.check()
    for count in range(1, 75):
        rig = Rig(num_blocks=20, windows=(0, 33, 17))
        sequence = make_sequence(0, list(range(75)))
        rig.admit(sequence)
        rig.compute(sequence, count)
        rig.check()


def first_blocks(rig: Rig, count: int) -> list[int]:
    return [rig.cache.find(digest) for digest in HASHER.chain(HASHER.root(""), list(range(16 * count)))]


@pytest.mark.parametrize("windows", [(21,), (0, 21), (0, 40, 17)])
def test_a_hit_within_a_window_is_exact_to_the_token(windows: tuple[int, ...]):
    for common in range(60):
        rig = Rig(num_blocks=NUM_BLOCKS * len(windows), windows=windows)
        rig.run(make_sequence(0, list(range(60))))
        assert rig.run(make_sequence(1, [*range(common), 999, 998])) == common


def test_a_prefix_is_as_long_as_its_groups_have_all_that_the_next_token_sees():
    """One group that sees all, one that sees 32 tokens before its own: two blocks, or three."""
    base = list(range(72))
    digests = HASHER.chain(HASHER.root(""), base)

    def hit(*forgotten: tuple[int, int]) -> int:
        rig = Rig(num_blocks=20, windows=(0, 33))
        rig.run(make_sequence(0, base))
        for index, group in forgotten:
            rig.cache._forget(rig.cache.blocks[group_digest(digests[index], group)])
        again = make_sequence(1, [*base[:70], 999])
        cached = rig.blocks.num_cached(again)
        assert rig.run(again) == cached
        rig.check_cache()
        return cached

    assert hit() == 70
    assert hit((0, 1), (1, 1)) == 70  # Out of the window of token 70.
    assert hit((2, 1)) == 32  # Token 64 sees token 32; token 47 sees token 15.
    assert hit((3, 1)) == 48
    assert hit((2, 1), (1, 1)) == 16
    assert hit((2, 0)) == 32
    assert hit((0, 0)) == 0
    assert hit((3, 1), (1, 0)) == 16


def test_a_hit_is_exact_to_the_token():
    """Whatever length two prompts have in common, that is what the second does not compute."""
    base = list(range(60))
    for common in range(60):
        rig = Rig()
        rig.run(make_sequence(0, base))
        assert rig.run(make_sequence(1, [*base[:common], 999, 998])) == common
        rig.check_cache()


def test_the_last_token_is_always_computed():
    for length in range(1, 60):
        rig = Rig()
        prompt = list(range(length))
        rig.run(make_sequence(0, prompt))
        assert rig.run(make_sequence(1, prompt)) == length - 1


def test_what_was_generated_is_found_again_to_the_token():
    rig = Rig()
    first = make_sequence(0, list(range(10)))
    rig.admit(first)
    rig.compute(first, 10)
    for token in range(500, 517):
        rig.blocks.grow(first, len(first) + 1)
        first.token_ids.append(token)
        rig.compute(first, 1)
    rig.leave(first, Status.FINISHED)
    assert rig.run(make_sequence(1, [*first.token_ids, 7, 8])) == 27


def test_the_longest_of_many_continuations_is_found():
    rig = Rig(num_blocks=64)
    for end in range(2, 12):
        rig.run(make_sequence(end, [*range(16), *[5] * end, end]))
    assert rig.run(make_sequence(99, [*range(16), *[5] * 7, 99, 5, 5])) == 16 + 7
    assert rig.run(make_sequence(99, [*range(16), *[5] * 11, 99])) == 16 + 11


def test_equal_blocks_computed_side_by_side_become_one():
    rig = Rig()
    prompt = list(range(40))
    first, second = make_sequence(0, prompt), make_sequence(1, prompt)
    rig.admit(first)
    rig.admit(second)
    assert rig.pool.num_free == NUM_BLOCKS - 6
    rig.compute(first, 40)
    rig.compute(second, 40)
    assert rig.pool.num_free == NUM_BLOCKS - 4
    assert second.held_blocks[:2] == first.held_blocks[:2]
    assert second.tables[0].num_written == 0
    assert second.has_new_blocks
    rig.check()


def test_blocks_without_use_are_taken_before_cached_ones():
    rig = Rig(num_blocks=6)
    rig.run(make_sequence(0, list(range(40))))  # Leaves three blocks that are known.
    rig.run(make_sequence(1, [7] * 33, hasher=None))
    rig.run(make_sequence(2, [8] * 33, hasher=None))
    assert rig.blocks.num_cached(make_sequence(3, list(range(41)))) == 40


def test_without_room_for_a_copy_only_whole_blocks_are_taken():
    rig = Rig(num_blocks=3)
    rig.run(make_sequence(0, list(range(40))))
    again = make_sequence(1, list(range(41)))
    assert rig.blocks.num_cached(again) == 32
    assert rig.run(again) == 32
    rig.check_cache()


def test_the_source_of_a_copy_can_not_be_handed_out_before_it_is_copied():
    rig = Rig(num_blocks=4)
    rig.run(make_sequence(0, list(range(20))))
    (source,) = (block for block, entry in enumerate(rig.cache.known) if entry and not entry.digest)
    copies = []
    assert rig.blocks.admit(make_sequence(1, list(range(21))), copies, [])
    assert copies[0][0] == source
    assert source not in rig.pool.allocate(rig.pool.num_free)
    rig.blocks.finish_copies(copies)
    assert rig.pool.num_free == 1


def test_one_that_skips_the_cache_computes_everything_and_others_find_it():
    rig = Rig()
    prompt = list(range(40))
    assert rig.run(make_sequence(0, prompt)) == 0
    assert rig.run(make_sequence(1, prompt, skip=True)) == 0
    rig.cache.reset()
    assert rig.run(make_sequence(2, prompt, skip=True)) == 0
    assert rig.run(make_sequence(3, prompt)) == 39
