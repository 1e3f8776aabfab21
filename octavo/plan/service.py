"""What a load sees of one replica, and how many replicas it takes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import msgspec

from octavo.engine.kv.kv_groups import most_blocks
from octavo.engine.scheduling.scheduler import SchedulerSettings
from octavo.plan.simulation import Load, Outcome, Simulation
from octavo.plan.step_cost import StepCost

SHARE_OF_CAPACITY = 0.9
"""How near to its capacity a replica is planned to run."""
MOST_REPLICAS = 1000
_REQUESTS = 300
_TRIES = 12


class Latency(msgspec.Struct, frozen=True, kw_only=True):
    """Percentiles in seconds: to the first token, between tokens, in all."""

    ttft_p50: float
    ttft_p95: float
    itl_p50: float
    itl_p95: float
    e2e_p95: float

    def meets(self, target_ttft: float, target_itl: float) -> bool:
        """Whether the 95th percentiles are within the targets."""
        return self.ttft_p95 <= target_ttft and self.itl_p95 <= target_itl


class Service(msgspec.Struct, frozen=True, kw_only=True):
    """One replica's capacity, and the load shared out over `replicas`; None of them when none would do.

    `max_num_seqs` is enough for what comes at a time and a quarter more; the capacity is what it allows.
    """

    capacity_rps: float
    capacity_output_tokens: float
    unloaded: Latency
    replicas: int | None
    loaded: Latency | None
    concurrency: int
    max_num_seqs: int
    preemptions: int


def plan_service(
    cost: StepCost,
    settings: SchedulerSettings,
    num_blocks: int,
    load: Load,
    targets: tuple[float, float],
    progress: Callable[[str], object],
) -> Service:
    """Simulate one replica: alone with a request, with all it can take, and with its part of the load.

    `load.rate` is that of all replicas together; `targets` are the p95 of the time to first token and
    between tokens, in seconds.
    """
    assert load.rate is not None
    simulation = Simulation(cost, settings, num_blocks)
    lengths = (load.input_tokens, load.output_tokens)
    unloaded = latency(simulation.run(Load(1e-6, *lengths, 3)))
    progress("simulating a full replica")
    full = _full_replica(cost, settings, num_blocks, lengths)
    capacity = full.requests_per_second
    replicas = max(1, math.ceil(load.rate / (SHARE_OF_CAPACITY * capacity)))
    found: tuple[int, Outcome] | None = None
    if unloaded.meets(*targets):
        for _ in range(_TRIES):
            if replicas > MOST_REPLICAS:
                break
            progress(f"simulating {replicas} replicas")
            outcome = simulation.run(Load(load.rate / replicas, *lengths, _REQUESTS))
            if latency(outcome).meets(*targets):
                found = replicas, outcome
                break
            replicas = max(replicas + 1, round(replicas * 1.25))
    concurrency = found[1].most_running if found else full.most_running
    most = min(settings.max_num_seqs, 8 * math.ceil(1.25 * concurrency / 8))
    if most < settings.max_num_seqs:
        progress(f"simulating a full replica with {most} sequences")
        fewer = replace(settings, max_num_seqs=most)
        capacity = _full_replica(cost, fewer, num_blocks, lengths).requests_per_second
    return Service(
        capacity_rps=capacity,
        capacity_output_tokens=capacity * load.output_tokens,
        unloaded=unloaded,
        replicas=found[0] if found else None,
        loaded=latency(found[1]) if found else None,
        concurrency=concurrency,
        max_num_seqs=most,
        preemptions=found[1].num_preemptions if found else full.num_preemptions,
    )


def _full_replica(
    cost: StepCost, settings: SchedulerSettings, num_blocks: int, lengths: tuple[int, int]
) -> Outcome:
    """Some times as many requests as it can run, all at once."""
    room = num_blocks // most_blocks(settings.kv_groups, sum(lengths), 1)
    count = max(32, min(400, 3 * min(room, settings.max_num_seqs)))
    return Simulation(cost, settings, num_blocks).run(Load(None, *lengths, count))


def latency(outcome: Outcome) -> Latency:
    """The percentiles of an outcome."""
    gaps = outcome.gaps or [0.0]
    return Latency(
        ttft_p50=percentile(outcome.ttft, 50),
        ttft_p95=percentile(outcome.ttft, 95),
        itl_p50=percentile(gaps, 50),
        itl_p95=percentile(gaps, 95),
        e2e_p95=percentile(outcome.e2e, 95),
    )


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that `percent` of the values are not above."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]
