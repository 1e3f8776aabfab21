"""What holds for every step, whatever arrives: budgets, order, progress, and blocks that come back."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st
from support.scheduler_rig import MAX_MODEL_LEN, Rig, make_sequence, rigs, settings_of, workloads

from octavo.engine.sequence import Sequence, Status


def play(rig: Rig, workload: list[tuple[int, Sequence]], *, first_always_runs: bool) -> int:
    """Run a workload to its end; returns the number of preemptions."""
    workload = list(workload)
    for number in range(10_000):
        while workload and workload[0][0] <= number:
            rig.add(workload.pop(0)[1])
        if not rig.unfinished:
            if not workload:
                return rig.scheduler.num_preemptions
            continue
        first = min(rig.unfinished, key=lambda each: each.order)
        step = rig.step()
        assert step.sequences
        assert not step.outgrown
        if first_always_runs:
            assert any(each is first for each in step.sequences)
    raise AssertionError("the scheduler does not finish")


@settings(max_examples=120, deadline=None)
@given(rigs(), workloads())
def test_everything_finishes_whatever_the_policy(rig: Rig, workload):
    preemptions = play(rig, workload, first_always_runs=False)
    event(f"preempted: {preemptions > 0}")
    assert rig.pool.num_free == rig.num_blocks
    assert not rig.scheduler.num_waiting
    for _, sequence in workload:
        assert len(sequence) == sequence.max_length


@settings(max_examples=50, deadline=None)
@given(rigs(("fcfs",)), workloads())
def test_first_come_is_served_in_every_step(rig: Rig, workload):
    as_many = rig.settings.max_num_partial_prefills  # No prompt is passed over for being long.
    rig.settings = dataclasses.replace(rig.settings, max_long_partial_prefills=as_many)
    rig.__post_init__()
    play(rig, workload, first_always_runs=True)


@settings(max_examples=50, deadline=None)
@given(rigs(), workloads(), st.data())
def test_aborts_free_blocks_at_once(rig: Rig, workload, data: st.DataObject):
    rig.add(*(sequence for _, sequence in workload))
    while rig.unfinished:
        rig.step()
        if rig.unfinished and data.draw(st.booleans()):
            victim = data.draw(st.sampled_from(rig.unfinished))
            rig.scheduler.remove(victim)
            rig.unfinished.remove(victim)
            assert not victim.tables
    assert rig.pool.num_free == rig.num_blocks
    assert not rig.scheduler.running
    assert not rig.scheduler.num_waiting


def test_decodes_go_before_a_prompt_which_is_split():
    rig = Rig(settings_of(budget=20, long_prefill_token_threshold=64), 16)
    rig.add(make_sequence(0, [1] * 5))
    rig.step()
    rig.add(make_sequence(1, [2] * 50))
    assert rig.steps(3) == [[1, 19], [1, 19], [1, 12]]


def test_a_decode_does_not_wait_for_a_prompt_that_goes_before_it():
    rig = Rig(settings_of(budget=20, policy="priority", long_prefill_token_threshold=64), 16)
    casual, urgent = make_sequence(0, [1] * 5, priority=1), make_sequence(1, [2] * 50)
    rig.add(casual)
    rig.step()
    rig.add(urgent)
    for count in (19, 19, 12):
        step = rig.step()
        assert step.sequences == [casual, urgent]
        assert step.num_new_tokens == [1, count]


def test_no_more_run_than_a_step_has_tokens():
    rig = Rig(settings_of(max_num_seqs=6, budget=3), 16)
    rig.add(*(make_sequence(number, [number]) for number in range(6)))
    for _ in range(3):
        assert len(rig.step().sequences) == 3


def test_a_prompt_is_whole_without_chunked_prefill_and_decodes_still_run():
    rig = Rig(settings_of(budget=MAX_MODEL_LEN, chunked_prefill=False), 32)
    rig.add(make_sequence(0, [1] * 50, 10), make_sequence(1, [2] * 100, 10), make_sequence(2, [3] * 20, 10))
    assert rig.steps(3) == [[50], [1, 100, 20], [1, 1, 1]]


def test_the_last_in_order_is_preempted_and_keeps_its_output():
    rig = Rig(settings_of(budget=128), 8, caching=False)
    first, second = make_sequence(0, [1] * 62, 60), make_sequence(1, [2] * 62, 40, arrival_time=1.0)
    rig.add(second, first)
    while not (step := rig.step()).preempted:
        pass
    assert step.preempted == [second]
    assert step.sequences == [first]
    assert len(second) == 65
    assert rig.waiting == [second]
    newcomer = make_sequence(2, [3], arrival_time=2.0)
    rig.add(newcomer)
    assert rig.waiting == [second, newcomer]


def test_nothing_is_admitted_out_of_turn():
    rig = Rig(settings_of(budget=80), 8)
    running, large, small = make_sequence(0, [1] * 70), make_sequence(1, [2] * 70), make_sequence(2, [3])
    rig.add(running, large, small)
    assert rig.step().sequences == [running]
    assert rig.step().sequences == [running]
    assert rig.waiting == [large, small]


def test_a_sequence_that_has_the_pool_alone_and_outgrows_it_is_taken_out():
    rig = Rig(settings_of(), 2)
    sequence = make_sequence(0, [1] * 30, 10)
    rig.add(sequence)
    steps = [rig.step() for _ in range(4)]
    assert steps[-1].outgrown == [sequence]
    assert not steps[-1].sequences
    assert len(sequence) == 33
    assert sequence.status is Status.FINISHED
    assert rig.pool.num_free == 2


def test_a_prompt_larger_than_the_pool_does_not_block_the_queue():
    rig = Rig(settings_of(), 2)
    large, small = make_sequence(0, [1] * 33), make_sequence(1, [2])
    rig.add(large, small)
    step = rig.step()
    assert step.outgrown == [large]
    assert step.sequences == [small]


def test_cached_blocks_are_taken_but_one_token_is_always_computed():
    rig = Rig(settings_of(), 16)
    prompt = list(range(48))
    rig.add(make_sequence(0, prompt, 1))
    assert rig.step().num_new_tokens == [48]
    again, longer = make_sequence(1, prompt, 1), make_sequence(2, [*prompt, 7, 8], 1)
    rig.add(again, longer)
    assert rig.step().num_new_tokens == [1, 2]
    assert (again.num_cached_tokens, longer.num_cached_tokens) == (47, 48)
    assert (rig.cache.queries, rig.cache.hits) == (48 + 48 + 50, 95)


def test_cached_output_of_a_resumed_stream_is_not_counted_as_prompt():
    rig = Rig(settings_of(), 16)
    tokens = list(range(64))
    rig.add(make_sequence(0, tokens, 1))
    rig.step()
    resumed = make_sequence(1, tokens[:20], 60)
    resumed.token_ids += tokens[20:]
    rig.add(resumed)
    assert rig.step().num_new_tokens == [1]
    assert resumed.num_cached_tokens == 20


def test_only_computed_blocks_are_offered_to_others():
    rig = Rig(settings_of(budget=20), 16)
    rig.add(make_sequence(0, list(range(100))))
    known = []
    for _ in range(5):
        rig.step()
        known.append(len(rig.cache))
    assert known == [1, 2, 3, 5, 6]


def test_generated_tokens_are_cached_too():
    rig = Rig(settings_of(), 16)
    first = make_sequence(0, list(range(10)), 30)
    rig.add(first)
    while rig.unfinished:
        rig.step()
    follow_up = make_sequence(1, [*first.token_ids, 1, 2, 3])
    rig.add(follow_up)
    assert rig.step().num_new_tokens == [43 - 39]


def test_a_preempted_sequence_finds_its_own_blocks():
    rig = Rig(settings_of(), 8)
    first, second = make_sequence(0, [1] * 62, 4), make_sequence(1, [2] * 62, 40, arrival_time=1.0)
    rig.add(first, second)
    while not rig.step().preempted:
        pass
    while first.status is not Status.FINISHED:
        rig.step()
    step = rig.step()
    assert step.sequences == [second]
    assert step.num_new_tokens == [len(second) - 1 - 48]
    assert second.num_cached_tokens == 0


def test_prompt_logprobs_are_chunked_by_output_rows_and_skip_the_cache():
    rig = Rig(settings_of(max_outputs=4 + 9), 16)
    prompt = list(range(40))
    rig.add(make_sequence(0, prompt, 1))
    rig.step()
    rig.add(make_sequence(1, prompt, 3, prompt_logprobs=0), make_sequence(2, [1, 2, 3], 3))
    assert rig.steps(5) == [[10, 3], [1, 10], [1, 10], [10], [1]]


@pytest.mark.parametrize("changes", [{"max_num_seqs": 0}, {"budget": 0}, {"max_outputs": 3}])
def test_settings_that_could_not_run_are_refused(changes: dict[str, int]):
    with pytest.raises(ValueError, match="must be at least"):
        settings_of(**changes)
