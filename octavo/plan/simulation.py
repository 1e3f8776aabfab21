"""A server under load, without a model: octavo's own scheduler against the clock of a step cost."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from octavo.engine.kv.block_pool import BlockPool
from octavo.engine.messages import AddRequest
from octavo.engine.scheduling.scheduler import Scheduler, SchedulerSettings
from octavo.engine.sequence import Sequence
from octavo.plan.step_cost import StepCost
from octavo.plan.step_work import step_work
from octavo.sampling.state import SamplingState
from octavo.sampling_params import SamplingParams


@dataclass(frozen=True, slots=True)
class Load:
    """`rate` requests a second at random times (Poisson), or all at once; their lengths in tokens."""

    rate: float | None
    input_tokens: int
    output_tokens: int
    num_requests: int


@dataclass(slots=True)
class Outcome:
    """What the requests saw, in seconds; `gaps` are those between tokens of a request."""

    ttft: list[float] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)
    e2e: list[float] = field(default_factory=list)
    seconds: float = 0.0
    num_preemptions: int = 0
    most_running: int = 0

    @property
    def requests_per_second(self) -> float:
        """Requests that ended, by the time that it took."""
        return len(self.e2e) / self.seconds if self.seconds else 0.0


class Simulation:
    """One run; deterministic."""

    def __init__(self, cost: StepCost, settings: SchedulerSettings, num_blocks: int) -> None:
        """The KV cache has `num_blocks` blocks."""
        self._cost = cost
        self._settings = settings
        self._num_blocks = num_blocks

    def run(self, load: Load, seed: int = 0) -> Outcome:
        """Serve the load to its end. Each request must fit the KV cache alone."""
        scheduler = Scheduler(self._settings, BlockPool(self._num_blocks), None)
        arrivals = _arrivals(load, seed)
        draw = random.Random(seed)
        outcome = Outcome()
        last_token: dict[str, float] = {}
        now, position = 0.0, 0
        while position < len(arrivals) or scheduler.running or scheduler.num_waiting:
            if not scheduler.running and not scheduler.num_waiting:
                now = max(now, arrivals[position].arrival_time)
            while position < len(arrivals) and arrivals[position].arrival_time <= now:
                scheduler.add(arrivals[position])
                position += 1
            step = scheduler.schedule(now)
            work = step_work(step, self._settings.kv_groups)
            seconds, delays = self._cost.seconds(work), self._cost.delays(work.num_decodes)
            now += seconds
            scheduler.update(step)
            scheduler.observe(step, seconds)
            outcome.most_running = max(outcome.most_running, len(scheduler.running))
            for sequence in step.sequences:
                if sequence.num_computed_tokens == len(sequence.token_ids):
                    delay = draw.choice(delays) if delays else 0.0
                    _append(sequence, now, delay, last_token, outcome)
                    if sequence.finish_reason():
                        scheduler.remove(sequence)
                        outcome.e2e.append(now - sequence.arrival_time)
        outcome.seconds = now
        outcome.num_preemptions = scheduler.num_preemptions
        return outcome


def _append(
    sequence: Sequence, now: float, delay: float, last_token: dict[str, float], outcome: Outcome
) -> None:
    """A token, made `now`; the gap before it is longer by `delay` for whoever reads it."""
    sequence.token_ids.append(0)
    last = last_token.get(sequence.request_id)
    if last is None:
        outcome.ttft.append(now - sequence.arrival_time)
    else:
        outcome.gaps.append(max(0.0, now - last + delay))
    last_token[sequence.request_id] = now


def _arrivals(load: Load, seed: int) -> list[Sequence]:
    draw = random.Random(seed)
    params = SamplingParams(temperature=0.0, seed=0, max_tokens=load.output_tokens, ignore_eos=True)
    now, sequences = 0.0, []
    for number in range(load.num_requests):
        if load.rate is not None:
            now += draw.expovariate(load.rate)
        request = AddRequest(str(number), [0] * load.input_tokens, params, [], now)
        sampling = SamplingState(params, request.prompt_token_ids, [], [], 1)
        max_model_len = load.input_tokens + load.output_tokens
        sequences.append(Sequence(request, number, max_model_len, sampling))
    return sequences
