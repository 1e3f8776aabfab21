"""A scheduler with all that it needs, a stand-in for the engine around it, and what holds for every step."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import strategies as st
from support.kv_layers import groups_of

from octavo.engine.kv.block_hash import BlockHasher
from octavo.engine.kv.block_pool import BlockPool
from octavo.engine.kv.kv_groups import most_blocks
from octavo.engine.kv.prefix_cache import PrefixCache
from octavo.engine.messages import AddRequest
from octavo.engine.scheduling.scheduler import Scheduler, SchedulerSettings, Step
from octavo.engine.scheduling.token_budget import Targets
from octavo.engine.sequence import Sequence, Status
from octavo.request_options import RequestOptions
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
    user: str = "",
    cache_salt: str = "",
    max_model_len: int = MAX_MODEL_LEN,
) -> Sequence:
    params = SamplingParams(temperature=0.0, max_tokens=max_tokens, prompt_logprobs=prompt_logprobs)
    options = RequestOptions(priority=priority, user=user, cache_salt=cache_salt)
    request = AddRequest(str(number), prompt, params, [], arrival_time, options=options)
    sampling = SamplingState(params, prompt, [], [], VOCAB)
    return Sequence(request, number, max_model_len, sampling, BlockHasher())


def settings_of(max_num_seqs=4, budget=64, max_outputs=None, **rest) -> SchedulerSettings:
    return SchedulerSettings(max_num_seqs, budget, max_outputs or max_num_seqs, **rest)


@dataclass
class Rig:
    """Steps take `base + per_token x tokens + per_pair x pairs` seconds, by a clock of the rig's own."""

    settings: SchedulerSettings
    num_blocks: int
    caching: bool = True
    step_time: tuple[float, float, float] = (1e-3, 1e-4, 1e-6)

    def __post_init__(self) -> None:
        self.pool = BlockPool(self.num_blocks)
        self.cache = PrefixCache(self.pool) if self.caching else None
        self.scheduler = Scheduler(self.settings, self.pool, self.cache)
        self.unfinished: list[Sequence] = []
        self.now = 0.0

    @property
    def waiting(self) -> list[Sequence]:
        return list(self.scheduler.waiting)

    def add(self, *sequences: Sequence) -> None:
        for sequence in sequences:
            self.scheduler.add(sequence)
            self.unfinished.append(sequence)

    def step(self) -> Step:
        """Schedule, check, and do what the engine does after the model ran."""
        step = self.scheduler.schedule(self.now)
        self.check(step)
        seconds = self.seconds(step)
        self.now += seconds
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
        if step.sequences:
            self.scheduler.observe(step, seconds)
        self.unfinished = [each for each in self.unfinished if each.status is not Status.FINISHED]
        return step

    def steps(self, count: int) -> list[list[int]]:
        """The numbers of tokens of each sequence in the next steps."""
        return [self.step().num_new_tokens for _ in range(count)]

    def finish(self) -> None:
        while self.unfinished:
            self.step()

    def seconds(self, step: Step) -> float:
        base, per_token, per_pair = self.step_time
        return base + per_token * step.num_tokens + per_pair * step.num_pairs

    def check(self, step: Step) -> None:
        settings, running = self.settings, self.scheduler.running
        assert step.num_tokens == sum(step.num_new_tokens) <= settings.max_num_batched_tokens
        assert len(step.sequences) == len(set(map(id, step.sequences))) <= settings.max_num_seqs
        assert len(running) <= settings.max_num_seqs
        # None that runs is left out, be it for a prompt: least of all those that decode.
        assert set(map(id, step.sequences)) == set(map(id, running))
        assert self.scheduler.num_waiting == len(self.waiting)
        if settings.policy != "fair":
            assert [each.order for each in running] == sorted(each.order for each in running)
            assert [each.order for each in self.waiting] == sorted(each.order for each in self.waiting)
        outputs = pairs = partial = long = 0
        for position, (sequence, num_new) in enumerate(zip(step.sequences, step.num_new_tokens, strict=True)):
            start, end = sequence.num_computed_tokens, sequence.num_computed_tokens + num_new
            pairs += (end - start) * (start + 1 + end) // 2
            partial += end < len(sequence)
            long += end < len(sequence) and sequence.is_long
            assert 0 < num_new <= len(sequence) - start
            assert end <= sequence.num_slots
            assert len(sequence.held_blocks) <= most_blocks(
                settings.kv_groups, len(sequence), settings.max_num_batched_tokens
            )
            if position < step.num_decodes:
                assert start == len(sequence) - 1
            if sequence.num_prompt_logprobs is None:
                outputs += end == len(sequence)
                if not settings.chunked_prefill:
                    assert end == len(sequence)
            else:
                outputs += num_new
                assert start == len(sequence.prompt_logprobs) - 1
        assert outputs <= settings.max_outputs
        assert pairs == step.num_pairs
        assert partial <= settings.max_num_partial_prefills
        assert long <= settings.max_long_partial_prefills
        for victim in step.preempted:
            if victim.status is Status.WAITING:
                assert not victim.tables
                assert not victim.num_computed_tokens
        self.scheduler.check_blocks(step)


@st.composite
def rigs(draw: st.DrawFn, policies: tuple[str, ...] = ("fcfs", "priority", "fair")) -> Rig:
    """Rigs from roomy to hardly able to run."""
    max_num_seqs = draw(st.integers(1, 6))
    chunked = draw(st.booleans())
    max_num_partial_prefills = draw(st.integers(1, 3))
    windows = draw(st.sampled_from([(0,), (0,), (21,), (0, 21), (0, 40, 3)]))
    groups = groups_of(windows)
    budget = draw(st.integers(1, 60)) if chunked else MAX_MODEL_LEN
    needed = most_blocks(groups, MAX_MODEL_LEN, budget)
    return Rig(
        SchedulerSettings(
            max_num_seqs,
            budget,
            max_num_seqs + draw(st.integers(0, 20)),
            chunked_prefill=chunked,
            max_num_partial_prefills=max_num_partial_prefills,
            max_long_partial_prefills=draw(st.integers(1, max_num_partial_prefills)),
            long_prefill_token_threshold=draw(st.sampled_from([0, 0, 5, 20])),
            policy=draw(st.sampled_from(policies)),
            priority_aging=draw(st.sampled_from([0.0, 0.1])),
            targets=Targets(
                draw(st.sampled_from([None, 0.001, 0.1])), draw(st.sampled_from([None, 0.001, 0.005]))
            ),
            kv_groups=groups,
        ),
        num_blocks=draw(st.integers(needed, 3 * needed)),
        caching=draw(st.booleans()),
    )


@st.composite
def workloads(draw: st.DrawFn) -> list[tuple[int, Sequence]]:
    """(step at which it arrives, sequence) in order of arrival; prompts share their beginnings."""
    workload, arrives = [], 0
    for number in range(draw(st.integers(1, 10))):
        arrives += draw(st.integers(0, 5))
        prompt = [*range(draw(st.integers(0, 60))), 500 + draw(st.integers(0, 3))]
        sequence = make_sequence(
            number,
            prompt,
            draw(st.integers(1, 60)),
            priority=draw(st.integers(-1, 1)),
            prompt_logprobs=draw(st.sampled_from([None, None, 0])),
            arrival_time=arrives * 0.005,
            user=draw(st.sampled_from("ab")),
        )
        workload.append((arrives, sequence))
    return workload
