"""Sequences come, share, are forked, grow, are preempted and go, against a memory that is really written.

The memory holds a token in each slot. Whoever runs must find its own tokens there, whatever was shared,
copied, given back or evicted on the way.
"""

from __future__ import annotations

import dataclasses
from itertools import pairwise

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from octavo.config import EngineConfig, Flag
from octavo.engine.block_hash import HASH_ALGORITHMS, BlockHasher
from octavo.engine.block_pool import BlockPool
from octavo.engine.cached_prefix import group_digest
from octavo.engine.kv_groups import KVGroup, most_blocks
from octavo.engine.messages import AddRequest
from octavo.engine.prefix_cache import PrefixCache
from octavo.engine.sequence import Sequence, Status
from octavo.engine.sequence_blocks import SequenceBlocks
from octavo.runtime.backend import BLOCK_SIZE
from octavo.sampling.state import SamplingState
from octavo.sampling_params import SamplingParams

HASHER = BlockHasher()
MAX_LEN = 5 * BLOCK_SIZE
NUM_BLOCKS = 9
BEGINNINGS = [[base + position for position in range(MAX_LEN - 8)] for base in (100, 300)]


def make_sequence(
    number: int, prompt: list[int], *, hasher: BlockHasher | None = HASHER, salt="", skip=False
):
    params = SamplingParams(temperature=0.0, max_tokens=None, skip_reading_prefix_cache=skip)
    request = AddRequest(str(number), prompt, params, [], float(number), cache_salt=salt)
    return Sequence(request, number, MAX_LEN, SamplingState(params, prompt, [], [], 1000), hasher)


class Rig:
    """Blocks, the memory behind them, and what a step does to both."""

    def __init__(
        self, num_blocks: int = NUM_BLOCKS, windows: tuple[int, ...] = (0,), chunk: int = MAX_LEN
    ) -> None:
        self.groups = tuple(KVGroup(window) for window in windows)
        self.chunk = chunk
        self.pool = BlockPool(num_blocks)
        self.cache = PrefixCache(self.pool)
        self.blocks = SequenceBlocks(self.pool, self.cache, self.groups, chunk)
        self.memory = [[-1] * BLOCK_SIZE for _ in range(num_blocks)]
        self.group_of = [-1] * num_blocks
        self.running: list[Sequence] = []

    def admit(self, sequence: Sequence) -> bool:
        copies = []
        if not self.blocks.admit(sequence, copies, []):
            assert not copies
            return False
        for source, destination in copies:
            self.memory[destination] = list(self.memory[source])
            self.group_of[destination] = self.group_of[source]
        self.blocks.finish_copies(copies)
        sequence.status = Status.RUNNING
        self.running.append(sequence)
        return True

    def compute(self, sequence: Sequence, count: int) -> bool:
        """So many tokens, in chunks; False if there were too few blocks for all."""
        while count:
            if len(sequence) > sequence.num_slots:
                self.blocks.extend(sequence)
            num_new = min(count, self.chunk, sequence.num_slots - sequence.num_computed_tokens)
            if not num_new:
                assert self.pool.num_free < len(self.groups)
                return False
            self.compute_chunk(sequence, num_new)
            count -= num_new
        return True

    def compute_chunk(self, sequence: Sequence, count: int) -> None:
        end = sequence.num_computed_tokens + count
        for group, table in enumerate(sequence.tables):
            for position in range(sequence.num_computed_tokens, end):
                block = table.blocks[position // BLOCK_SIZE]
                assert self.pool.ref_counts[block] == 1, "a shared block is written"
                self.memory[block][position % BLOCK_SIZE] = sequence.token_ids[position]
                self.group_of[block] = group
        sequence.num_computed_tokens = end
        if end >= (sequence.num_known_blocks + 1) * BLOCK_SIZE:
            self.blocks.offer(sequence)
        if sequence.has_pending_blocks and end == len(sequence):
            self.blocks.finish_prefill(sequence)
        if self.blocks.drops and end >= sequence.next_drop:
            self.blocks.drop(sequence)

    def leave(self, sequence: Sequence, status: Status) -> None:
        self.running.remove(sequence)
        sequence.status = status
        self.blocks.release(sequence)

    def run(self, sequence: Sequence) -> int:
        """Admit, compute and release a sequence; returns how many tokens the cache gave."""
        assert self.admit(sequence)
        given = sequence.num_computed_tokens
        self.compute(sequence, len(sequence) - given)
        self.leave(sequence, Status.FINISHED)
        return given

    def check(self) -> None:
        tables = [block for sequence in self.running for block in sequence.held_blocks]
        assert self.pool.ref_counts == [tables.count(block) for block in range(self.pool.num_blocks)]
        assert self.pool.num_free == self.pool.num_blocks - len(set(tables))
        for sequence in self.running:
            computed = sequence.num_computed_tokens
            assert len(sequence.held_blocks) <= most_blocks(self.groups, len(sequence), self.chunk)
            for number, (group, table) in enumerate(zip(self.groups, sequence.tables, strict=True)):
                held = [token for block in table.blocks for token in self.memory[block]]
                seen = max(0, computed - group.window + 1) if group.window else 0
                assert held[seen:computed] == sequence.token_ids[seen:computed]
                used = table.blocks[seen // BLOCK_SIZE : -(-computed // BLOCK_SIZE)]
                assert {self.group_of[block] for block in used} <= {number}
                assert table.num_dropped == seen // BLOCK_SIZE
                assert len(table.held) <= group.most_blocks(len(sequence), self.chunk)
        self.check_cache()

    def check_cache(self) -> None:
        """Whatever is known is true, and a block's children are sorted and none begins another."""
        entries = self.cache.known
        for block, entry in enumerate(entries):
            if entry is not None:
                count = len(entry.tokens) // 4
                assert entry.tokens == make_sequence(0, self.memory[block]).block_tokens(0, count)
                assert entry.group == self.group_of[block]
                if entry.digest is not None:
                    assert self.cache.blocks[entry.digest] == block
                    parent = group_digest(entry.parent, entry.group)
                    (digest,) = HASHER.chain(parent, self.memory[block])
                    assert entry.digest == group_digest(digest, entry.group)
        known = [(entry.parent, entry.tokens, block) for block, entry in enumerate(entries) if entry]
        listed = []
        for parent, children in self.cache._children.items():
            assert children == sorted(children)
            for (shorter, _), (longer, _) in pairwise(children):
                assert not longer.startswith(shorter)
            listed += [(parent, tokens, block) for tokens, block in children]
        assert sorted(listed) == sorted(known)


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


PROMPT = list(range(48))


class TestWaiting:
    """A sequence waits for one that goes before it and is about to compute what it needs."""

    def waits(self, rig: Rig, prompt: list[int], number: int = 1, **options) -> bool:
        return rig.blocks.waits_for_others(make_sequence(number, prompt, **options))

    def test_until_the_common_part_is_computed(self):
        rig = Rig()
        first, second = make_sequence(0, [*PROMPT, 1, 1, 1, 1]), make_sequence(1, [*PROMPT, 2])
        rig.admit(first)
        for _ in range(3):
            assert rig.blocks.waits_for_others(second)
            rig.compute(first, 16)
        assert not rig.blocks.waits_for_others(second)
        rig.admit(second)
        assert second.num_computed_tokens == 48

    def test_for_an_equal_prompt_to_its_end_however_short(self):
        rig = Rig()
        first, second = make_sequence(0, [1, 2, 3]), make_sequence(1, [1, 2, 3])
        rig.admit(first)
        assert rig.blocks.waits_for_others(second)
        rig.compute(first, 3)
        assert not rig.blocks.waits_for_others(second)
        rig.admit(second)
        assert second.num_computed_tokens == 2

    def test_not_for_one_that_goes_after_it(self):
        rig = Rig()
        rig.admit(make_sequence(5, PROMPT))
        assert not self.waits(rig, PROMPT, number=4)
        assert self.waits(rig, PROMPT, number=6)

    def test_not_for_little(self):
        rig = Rig()
        rig.admit(make_sequence(0, PROMPT))
        assert not self.waits(rig, [*PROMPT[:16], *[7] * 40])
        assert self.waits(rig, [*PROMPT[:32], *[7] * 30])

    def test_also_for_one_that_does_not_read_the_cache(self):
        rig = Rig()
        rig.admit(make_sequence(0, PROMPT, skip=True))
        assert self.waits(rig, [*PROMPT[:32], 7])

    def test_not_where_it_could_not_share(self):
        rig = Rig()
        rig.admit(make_sequence(0, PROMPT))
        assert not self.waits(rig, PROMPT, salt="other")
        assert not self.waits(rig, PROMPT, skip=True)
        assert not self.waits(rig, PROMPT, hasher=None)

    @pytest.mark.parametrize("status", [Status.WAITING, Status.FINISHED])
    def test_not_for_one_that_was_preempted_or_aborted(self, status: Status):
        rig = Rig()
        first = make_sequence(0, PROMPT)
        rig.admit(first)
        rig.leave(first, status)
        assert not self.waits(rig, PROMPT)

    def test_not_behind_one_that_waited_itself(self):
        """Of many equal prompts one computes, and all others go on together."""
        rig = Rig(num_blocks=40)
        first, *others = (make_sequence(number, PROMPT) for number in range(6))
        rig.admit(first)
        rig.compute(first, 48)
        for each in others:
            assert not rig.blocks.waits_for_others(each)
            rig.admit(each)
            assert each.num_computed_tokens == 47


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


def test_roots_depend_on_every_part_and_on_where_one_ends():
    parts = [(), ("",), ("a",), ("ab",), ("a", "b"), ("", "ab"), ("ab", "")]
    assert len({HASHER.root(*each) for each in parts}) == len(parts)


def test_unknown_hash_algorithm():
    with pytest.raises(ValueError, match="sha256, blake2b, got 'md5'"):
        BlockHasher("md5")


def test_the_flag_offers_all_algorithms():
    flags = {field.name: Flag.of(field) for field in dataclasses.fields(EngineConfig)}
    assert flags["prefix_caching_hash_algo"].choices == HASH_ALGORITHMS
