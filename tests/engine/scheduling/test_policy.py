"""First come first served and priority: the behaviour that vLLM publishes, and what aging adds to it.

Sources: vLLM's documentation of `SchedulerConfig` and of the OpenAI server's `priority` field, "Optimization
and Tuning" (preemption, chunked prefill), and pull request 5958, which introduced priorities.
"""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.scheduler_rig import Rig, make_sequence, rigs, settings_of

from octavo.engine.scheduling.scheduler import SchedulerSettings
from octavo.engine.sequence import Status


def priority_rig(num_blocks: int = 16, *, caching: bool = False, **rest) -> Rig:
    return Rig(settings_of(policy="priority", **rest), num_blocks, caching=caching)


# "fcfs" means first come first served, i.e. requests are handled in order of arrival.


def test_fcfs_is_the_default_and_goes_by_arrival_whatever_the_priority():
    rig = Rig(settings_of(max_num_seqs=1), 16)
    late, early = (
        make_sequence(0, [1], arrival_time=2.0, priority=-5),
        make_sequence(1, [2], arrival_time=1.0),
    )
    rig.add(late, early)
    assert rig.step().sequences == [early]
    assert rig.waiting == [late]


def test_fcfs_preempts_the_latest_arrival_which_then_goes_first():
    rig = Rig(settings_of(), 8, caching=False)
    early = make_sequence(0, [1] * 62, 40, arrival_time=0.0, priority=9)
    late = make_sequence(1, [2] * 62, 40, arrival_time=1.0)
    newest = make_sequence(2, [3], arrival_time=2.0, priority=-9)
    rig.add(early, late)
    while not (step := rig.step()).preempted:
        pass
    assert step.preempted == [late]
    rig.add(newest)
    assert rig.waiting == [late, newest]


# "priority" means requests are handled based on given priority (lower value means earlier handling) and time
# of arrival deciding any ties.


def test_lower_priority_numbers_are_handled_earlier_and_arrival_decides_ties():
    rig = priority_rig(max_num_seqs=1)
    casual = make_sequence(0, [1], 1, priority=2, arrival_time=0.0)
    second = make_sequence(1, [2], 1, priority=1, arrival_time=2.0)
    first = make_sequence(2, [3], 1, priority=1, arrival_time=1.0)
    urgent = make_sequence(3, [4], 1, priority=-1, arrival_time=3.0)
    rig.add(casual, second, first, urgent)
    assert [rig.step().sequences for _ in range(4)] == [[urgent], [first], [second], [casual]]


def test_the_lowest_priority_is_preempted_when_memory_runs_out():
    rig = priority_rig(8)
    casual = make_sequence(0, [1] * 62, 40, priority=1)
    urgent = make_sequence(1, [2] * 62, 40, arrival_time=1.0)
    rig.add(casual, urgent)
    while not (step := rig.step()).preempted:
        pass
    assert step.preempted == [casual]


def test_of_equal_priorities_the_latest_is_preempted():
    rig = priority_rig(8)
    early, late = make_sequence(0, [1] * 62, 40), make_sequence(1, [2] * 62, 40, arrival_time=1.0)
    rig.add(late, early)
    while not (step := rig.step()).preempted:
        pass
    assert step.preempted == [late]


def test_preempted_requests_are_computed_again_with_their_output():
    rig = Rig(settings_of(budget=128), 8, caching=False)
    first, second = make_sequence(0, [1] * 62, 4), make_sequence(1, [2] * 62, 40, arrival_time=1.0)
    rig.add(first, second)
    while not rig.step().preempted:
        pass
    length = len(second)
    assert length > 62
    while first.status is not Status.FINISHED:
        rig.step()
    assert rig.step().num_new_tokens == [length]
    assert rig.scheduler.num_preemptions == 1


# Forced preemption (pull request 5958): running requests whose priority is lower than that of a waiting one
# are put back into the queue to let it run at once.


def test_an_urgent_arrival_takes_the_place_of_the_lowest():
    rig = priority_rig(max_num_seqs=2)
    casual = make_sequence(0, [1], 9, priority=5)
    lowest = make_sequence(1, [2], 9, priority=7)
    rig.add(casual, lowest)
    rig.step()
    urgent = make_sequence(2, [3], 9, priority=1, arrival_time=1.0)
    rig.add(urgent)
    step = rig.step()
    assert step.preempted == [lowest]
    assert step.sequences == [casual, urgent]


def test_an_urgent_arrival_takes_as_much_memory_as_it_needs_and_no_more():
    rig = priority_rig(num_blocks=9)
    running = [make_sequence(number, [number] * 40, 8, priority=5) for number in range(3)]
    rig.add(*running)
    rig.step()
    rig.step()
    rig.add(urgent := make_sequence(3, [3] * 60, arrival_time=1.0))
    step = rig.step()
    assert step.preempted == [running[2], running[1]]
    assert step.sequences == [running[0], urgent]


def test_nobody_goes_for_an_arrival_that_could_not_run_even_so():
    rig = priority_rig(num_blocks=8)
    peer, casual = make_sequence(0, [1] * 60, 30), make_sequence(1, [2] * 30, 2, priority=5)
    rig.add(peer, casual)
    rig.step()
    rig.add(make_sequence(2, [3] * 100, arrival_time=1.0))
    step = rig.step()
    assert not step.preempted
    assert step.sequences == [peer, casual]


def test_nobody_goes_for_an_arrival_that_is_larger_than_the_pool():
    rig = priority_rig(num_blocks=4)
    rig.add(casual := make_sequence(0, [1] * 30, 9, priority=5))
    rig.step()
    rig.add(huge := make_sequence(1, [3] * 100, arrival_time=1.0))
    step = rig.scheduler.schedule()
    assert not step.preempted
    assert step.outgrown == [huge]
    assert step.sequences == [casual]


def test_what_an_arrival_shares_with_those_that_go_makes_no_room_for_it():
    """Of the six blocks of the one that runs four are its own beginning: it could not run even so."""
    rig = priority_rig(num_blocks=8, caching=True)
    peer, casual = make_sequence(0, [1] * 16, 9), make_sequence(1, [2] * 79, 9, priority=5)
    rig.add(peer, casual)
    rig.step()
    rig.step()
    rig.add(urgent := make_sequence(2, [2] * 64 + [3] * 50, arrival_time=1.0))
    assert not rig.step().preempted
    assert urgent.status is Status.WAITING


def test_those_that_share_their_blocks_go_together_for_an_arrival():
    rig = priority_rig(num_blocks=8, caching=True, budget=128)
    rig.add(first := make_sequence(0, [2] * 90, 9, priority=5))
    rig.step()
    rig.add(second := make_sequence(1, [2] * 90, 9, priority=5, arrival_time=1.0))
    rig.step()
    rig.add(urgent := make_sequence(2, [3] * 100, arrival_time=2.0))
    step = rig.step()
    assert step.preempted == [second, first]
    assert step.sequences == [urgent]


def test_nobody_goes_for_a_long_prompt_while_another_is_computed():
    rig = priority_rig(num_blocks=9, budget=20, long_prefill_token_threshold=15)
    long = make_sequence(0, [1] * 90, 9)
    rig.add(long, casual := make_sequence(1, [2] * 5, 90, priority=5))
    rig.step()
    rig.step()
    rig.add(make_sequence(2, [3] * 40, arrival_time=1.0))
    step = rig.step()
    assert not step.preempted
    assert set(step.sequences) == {long, casual}


def test_an_urgent_arrival_takes_a_place_where_a_step_has_tokens_for_few():
    rig = priority_rig(max_num_seqs=8, budget=3)
    casual = [make_sequence(number, [number], 30, priority=5) for number in range(3)]
    rig.add(*casual)
    rig.step()
    rig.add(urgent := make_sequence(3, [3], arrival_time=1.0))
    step = rig.step()
    assert step.preempted == casual[2:]
    assert urgent in step.sequences


def test_equals_do_not_displace_each_other():
    rig = priority_rig(max_num_seqs=1)
    rig.add(running := make_sequence(0, [1], 9, arrival_time=1.0))
    rig.step()
    rig.add(make_sequence(1, [2], 9, arrival_time=0.5))
    assert rig.step().sequences == [running]


# Chunked prefill: decode requests are prioritised over prefills; what does not fit in
# max_num_batched_tokens is chunked.


def test_the_batch_is_filled_with_decodes_then_with_chunks_up_to_the_budget():
    rig = Rig(settings_of(budget=32, long_prefill_token_threshold=40), 32)
    rig.add(make_sequence(0, [1] * 6, 9), make_sequence(1, [2] * 6, 9))
    rig.step()
    rig.add(make_sequence(2, [3] * 40), make_sequence(3, [4] * 40))
    assert rig.steps(3) == [[1, 1, 30], [1, 1, 10, 20], [1, 1, 1, 20]]


# max_num_partial_prefills: the maximum number of sequences that can be partially prefilled concurrently.
# max_long_partial_prefills: the maximum number of prompts longer than long_prefill_token_threshold that will
# be prefilled concurrently; with less than max_num_partial_prefills shorter prompts jump the queue in front
# of longer prompts in some cases.


def test_one_partial_prefill_at_a_time_is_plain_first_come_first_served():
    rig = Rig(settings_of(budget=32, max_num_partial_prefills=1), 32)
    rig.add(*(make_sequence(number, [number] * 40, 1) for number in range(3)))
    assert rig.steps(4) == [[32], [8], [32], [8]]


def test_prompts_that_fit_whole_start_beside_a_partial_one():
    rig = Rig(settings_of(budget=32, max_num_partial_prefills=1, long_prefill_token_threshold=20), 32)
    rig.add(make_sequence(0, [1] * 40), make_sequence(1, [2] * 12), make_sequence(2, [3] * 5))
    assert rig.steps(2) == [[20, 12], [1, 20, 5]]


def test_shorter_prompts_jump_the_queue_in_front_of_long_ones():
    rig = Rig(settings_of(budget=40, long_prefill_token_threshold=20), 40)
    long, longer, short = (
        make_sequence(0, [1] * 60, 1),
        make_sequence(1, [2] * 60, 1),
        make_sequence(2, [3] * 15, 1),
    )
    rig.add(long, longer, short)
    assert rig.step().sequences == [long, short]
    assert rig.waiting == [longer]
    assert [rig.step().sequences for _ in range(2)] == [[long], [long]]
    assert rig.step().sequences == [longer]


def test_as_many_long_prompts_at_a_time_as_allowed_share_a_step():
    rig = Rig(
        settings_of(
            budget=40,
            max_num_partial_prefills=2,
            max_long_partial_prefills=2,
            long_prefill_token_threshold=30,
        ),
        40,
    )
    rig.add(*(make_sequence(number, [number] * 60, 1) for number in range(3)))
    assert rig.steps(5) == [[30, 10], [20, 20], [10, 30], [30], [30]]


def test_a_long_prompt_gets_no_more_than_the_threshold_in_a_step():
    rig = Rig(settings_of(budget=64, long_prefill_token_threshold=20), 32)
    rig.add(make_sequence(0, [1] * 50))
    assert rig.steps(3) == [[20], [20], [10]]


def test_a_cached_prefix_does_not_make_a_prompt_long():
    rig = Rig(settings_of(budget=64, long_prefill_token_threshold=20), 32)
    rig.add(make_sequence(0, list(range(60)), 1))
    rig.finish()
    rig.add(make_sequence(1, [9] * 60, 1), make_sequence(2, [*range(60), 7], 1))
    assert rig.steps(3) == [[20, 1], [20], [20]]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_num_partial_prefills": 1, "max_long_partial_prefills": 2}, "--max-long-partial-prefills"),
        ({"max_long_partial_prefills": 0}, "--max-long-partial-prefills"),
        ({"policy": "lottery"}, "fcfs, priority, fair"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(changes, message: str):
    with pytest.raises(ValueError, match=message):
        settings_of(**changes)


def test_aging_counts_waiting_as_priority():
    rig = priority_rig(max_num_seqs=1, priority_aging=10.0)
    rig.add(make_sequence(0, [1], 3))
    rig.step()
    patient = make_sequence(1, [2], 3, priority=1, arrival_time=0.0)
    soon = make_sequence(2, [3], 3, priority=0, arrival_time=9.0)
    later = make_sequence(3, [4], 3, priority=0, arrival_time=11.0)
    rig.add(patient, soon, later)
    assert rig.waiting == [soon, patient, later]


@settings(max_examples=60, deadline=None)
@given(rigs(), st.data())
def test_nothing_starves_however_much_arrives(rig: Rig, data: st.DataObject):
    """The queue is kept full, for ever, of better priority and from other users."""
    if rig.settings.policy == "priority" and not rig.settings.priority_aging:
        return  # Strict priority: whoever asks for it gets it.
    length = data.draw(st.integers(1, 100))
    victim = make_sequence(10_000, [9] * length, 10, priority=1, user="victim")
    many_users = data.draw(st.booleans())
    served_before = data.draw(st.integers(0, 3))
    for number in range(served_before):
        rig.add(make_sequence(number, [8] * 40, 20, user="victim"))
        rig.finish()
    rig.add(*(make_sequence(number + 10, [number], 20, user="other") for number in range(6)))
    rig.add(victim)
    for number in range(100, 10_000):
        if rig.scheduler.num_waiting < 30:
            user = f"new{number}" if many_users else "other"
            prompt = [number % 7] * (1 + 13 * number % 40)
            rig.add(make_sequence(number, prompt, 1 + number % 20, arrival_time=rig.now, user=user))
        rig.step()
        if victim.status is Status.FINISHED:
            return
    raise AssertionError("starved")


def test_settings_have_vllms_defaults_where_they_are_the_same():
    defaults = SchedulerSettings(1, 1, 1)
    assert defaults.policy == "fcfs"
    assert defaults.max_long_partial_prefills == 1
    assert defaults.long_prefill_token_threshold == 0
