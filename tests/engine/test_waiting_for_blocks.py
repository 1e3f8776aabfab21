"""A sequence waits for one that goes before it and is about to compute what it needs."""

from __future__ import annotations

import pytest
from support.blocks_rig import Rig, make_sequence

from octavo.engine.sequence import Status

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
