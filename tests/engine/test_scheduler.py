"""What holds for every step, whatever arrives: budgets, order, progress, and blocks that come back."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from octavo.engine.block_pool import BlockPool, blocks_for
from octavo.engine.messages import AddRequest
from octavo.engine.prefix_cache import PrefixCache
from octavo.engine.scheduler import Scheduler, SchedulerSettings, Step
from octavo.engine.sequence import Sequence, Status
from octavo.runtime.backend import BLOCK_SIZE
from octavo.sampling.state import SamplingState
from octavo.sampling_params import SamplingParams

VOCAB = 1000
MAX_MODEL_LEN = 128


def make_sequence(
    number: int,
    prompt: list[int],
    max_tokens: int = 4,
    *,
    priority: int = 0,
    prompt_logprobs: int | None = None,
    arrival_time: float = 0.0,
) -> Sequence:
    params = SamplingParams(temperature=0.0, max_tokens=max_tokens, prompt_logprobs=prompt_logprobs)
    request = AddRequest(str(number), prompt, params, [], arrival_time, priority=priority)
    return Sequence(request, number, MAX_MODEL_LEN, SamplingState(params, prompt, [], [], VOCAB))


@dataclass
class Rig:
    """A scheduler with all that it needs, and a stand-in for the engine around it."""

    settings: SchedulerSettings
    num_blocks: int
    caching: bool = True

    def __post_init__(self) -> None:
        self.pool = BlockPool(self.num_blocks)
        self.cache = PrefixCache(self.pool) if self.caching else None
        self.scheduler = Scheduler(self.settings, self.pool, self.cache)
        self.unfinished: list[Sequence] = []

    def add(self, *sequences: Sequence) -> None:
        for sequence in sequences:
            self.scheduler.add(sequence)
            self.unfinished.append(sequence)

    def step(self) -> Step:
        """Schedule, check, and do what the engine does after the model ran."""
        step = self.scheduler.schedule()
        self.check(step)
        self.scheduler.update(step)
        for sequence in step.sequences:
            if sequence.num_prompt_logprobs is not None:
                read = min(sequence.num_computed_tokens + 1, sequence.num_prompt_tokens)
                sequence.prompt_logprobs += [None] * (read - len(sequence.prompt_logprobs))
            if sequence.num_computed_tokens < len(sequence):
                continue
            sequence.token_ids.append((31 * sequence.token_ids[-1] + len(sequence)) % VOCAB)
            sequence.num_prompt_logprobs = None
            if sequence.finish_reason():
                self.scheduler.remove(sequence)
        self.unfinished = [each for each in self.unfinished if each.status is not Status.FINISHED]
        return step

    def check(self, step: Step) -> None:
        running = self.scheduler.running
        assert step.num_tokens == sum(step.num_new_tokens) <= self.settings.max_num_batched_tokens
        assert len(step.sequences) == len(set(map(id, step.sequences))) <= self.settings.max_num_seqs
        assert len(running) <= self.settings.max_num_seqs
        assert set(map(id, step.sequences)) <= set(map(id, running))
        assert [each.order for each in running] == sorted(each.order for each in running)
        outputs = 0
        for sequence, num_new in zip(step.sequences, step.num_new_tokens, strict=True):
            end = sequence.num_computed_tokens + num_new
            assert 0 < num_new <= len(sequence) - sequence.num_computed_tokens
            assert end <= len(sequence.block_table) * BLOCK_SIZE
            if sequence.num_prompt_logprobs is None:
                outputs += end == len(sequence)
                if not self.settings.chunked_prefill:
                    assert end == len(sequence)
            else:
                outputs += num_new
                assert sequence.num_computed_tokens == len(sequence.prompt_logprobs) - 1
        assert outputs <= self.settings.max_outputs
        for victim in step.preempted:
            assert victim.status is Status.WAITING
            assert not victim.block_table
            assert not victim.num_computed_tokens
            assert all(victim.order > each.order for each in running)
        tables = [block for sequence in running for block in sequence.block_table]
        assert self.pool.ref_counts == [tables.count(block) for block in range(self.num_blocks)]


@st.composite
def rigs(draw: st.DrawFn) -> Rig:
    max_num_seqs = draw(st.integers(1, 6))
    chunked = draw(st.booleans())
    return Rig(
        SchedulerSettings(
            max_num_seqs,
            draw(st.integers(1, 60)) if chunked else MAX_MODEL_LEN,
            max_num_seqs + draw(st.integers(0, 20)),
            chunked_prefill=chunked,
        ),
        num_blocks=draw(st.integers(blocks_for(MAX_MODEL_LEN), 3 * blocks_for(MAX_MODEL_LEN))),
        caching=draw(st.booleans()),
    )


@st.composite
def workloads(draw: st.DrawFn, priorities: st.SearchStrategy[int]) -> list[tuple[int, Sequence]]:
    """(step at which it arrives, sequence) in order of arrival; prompts share their beginnings."""
    workload, arrives = [], 0
    for number in range(draw(st.integers(1, 10))):
        arrives += draw(st.integers(0, 5))
        prompt = [*range(draw(st.integers(0, 60))), 500 + draw(st.integers(0, 3))]
        sequence = make_sequence(
            number,
            prompt,
            draw(st.integers(1, 60)),
            priority=draw(priorities),
            prompt_logprobs=draw(st.sampled_from([None, None, 0])),
            arrival_time=float(arrives),
        )
        workload.append((arrives, sequence))
    return workload


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


@settings(max_examples=150, deadline=None)
@given(rigs(), workloads(st.just(0)))
def test_first_come_is_served_in_every_step(rig: Rig, workload):
    preemptions = play(rig, workload, first_always_runs=True)
    event(f"preempted: {preemptions > 0}")
    assert rig.pool.num_free == rig.num_blocks


@settings(max_examples=100, deadline=None)
@given(rigs(), workloads(st.integers(-1, 1)))
def test_everything_finishes_with_priorities(rig: Rig, workload):
    play(rig, workload, first_always_runs=False)
    assert rig.pool.num_free == rig.num_blocks
    for _, sequence in workload:
        assert len(sequence) == sequence.max_length


@settings(max_examples=50, deadline=None)
@given(rigs(), workloads(st.integers(0, 1)), st.data())
def test_aborts_free_blocks_at_once(rig: Rig, workload, data: st.DataObject):
    rig.add(*(sequence for _, sequence in workload))
    while rig.unfinished:
        rig.step()
        if rig.unfinished and data.draw(st.booleans()):
            victim = data.draw(st.sampled_from(rig.unfinished))
            rig.scheduler.remove(victim)
            rig.unfinished.remove(victim)
            assert not victim.block_table
    assert rig.pool.num_free == rig.num_blocks
    assert not rig.scheduler.running
    assert not rig.scheduler.waiting


def settings_of(max_num_seqs=4, budget=64, max_outputs=None, **rest) -> SchedulerSettings:
    return SchedulerSettings(max_num_seqs, budget, max_outputs or max_num_seqs, **rest)


def test_decodes_go_before_a_long_prompt_which_is_split():
    rig = Rig(settings_of(budget=20), 16)
    rig.add(make_sequence(0, [1] * 5))
    rig.step()
    rig.add(make_sequence(1, [2] * 50))
    chunks = [rig.step().num_new_tokens for _ in range(3)]
    assert chunks == [[1, 19], [1, 19], [1, 12]]


def test_a_prompt_is_whole_without_chunked_prefill_and_decodes_still_run():
    rig = Rig(settings_of(budget=MAX_MODEL_LEN, chunked_prefill=False), 32)
    rig.add(make_sequence(0, [1] * 50, 10), make_sequence(1, [2] * 100, 10), make_sequence(2, [3] * 20, 10))
    assert [rig.step().num_new_tokens for _ in range(3)] == [[50], [1, 100, 20], [1, 1, 1]]


def test_the_last_in_order_is_preempted_and_keeps_its_output():
    rig = Rig(settings_of(budget=128), 8, caching=False)
    first, second = make_sequence(0, [1] * 62, 60), make_sequence(1, [2] * 62, 40, arrival_time=1.0)
    rig.add(second, first)
    while not (step := rig.step()).preempted:
        pass
    assert step.preempted == [second]
    assert step.sequences == [first]
    assert len(second) == 65
    assert rig.scheduler.waiting == [second]
    newcomer = make_sequence(2, [3], arrival_time=2.0)
    urgent = make_sequence(3, [4], arrival_time=3.0, priority=-1)
    rig.add(newcomer, urgent)
    assert rig.scheduler.waiting == [urgent, second, newcomer]


def test_lower_priority_is_preempted_before_a_later_arrival():
    rig = Rig(settings_of(), 8, caching=False)
    casual = make_sequence(0, [1] * 62, 40, priority=1)
    urgent = make_sequence(1, [2] * 62, 40, arrival_time=1.0)
    rig.add(casual, urgent)
    while not (step := rig.step()).preempted:
        pass
    assert step.preempted == [casual]


def test_nothing_is_admitted_out_of_turn():
    rig = Rig(settings_of(), 8)
    running, large, small = make_sequence(0, [1] * 70), make_sequence(1, [2] * 70), make_sequence(2, [3])
    rig.add(running, large, small)
    assert rig.step().sequences == [running]
    assert rig.step().sequences == [running]
    assert rig.scheduler.waiting == [large, small]


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
    assert rig.step().num_new_tokens == [16, 2]
    assert (again.num_cached_tokens, longer.num_cached_tokens) == (32, 48)
    assert (rig.cache.queries, rig.cache.hits) == (48 + 48 + 50, 80)


def test_cached_output_of_a_resumed_stream_is_not_counted_as_prompt():
    rig = Rig(settings_of(), 16)
    tokens = list(range(64))
    rig.add(make_sequence(0, tokens, 1))
    rig.step()
    resumed = make_sequence(1, tokens[:20], 60)
    resumed.token_ids += tokens[20:]
    rig.add(resumed)
    assert rig.step().num_new_tokens == [16]
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
    assert rig.step().num_new_tokens == [43 - 32]


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
    steps = [rig.step().num_new_tokens for _ in range(5)]
    assert steps == [[10, 3], [10, 1], [10, 1], [10], [1]]


@pytest.mark.parametrize("changes", [{"max_num_seqs": 0}, {"budget": 0}, {"max_outputs": 3}])
def test_settings_that_could_not_run_are_refused(changes: dict[str, int]):
    with pytest.raises(ValueError, match="must be at least"):
        settings_of(**changes)
