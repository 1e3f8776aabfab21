"""Throughput: kernels, threads and batches that leave the machine idle."""

from __future__ import annotations

import math
from collections.abc import Iterator

from octavo.doctor.finding import Finding
from octavo.doctor.observation import Observation

FEW_SEQUENCES = 1.5
ENOUGH_STEPS = 100
BUSY_PROCESS = 0.85
"""The part of the time, above which an API process can do no more: Python runs on one CPU at a time."""
IDLE_ENGINE = 0.8
"""The part of the time that steps take, below which the engine waits for somebody."""


def check(observed: Observation) -> Iterator[Finding]:
    """What keeps tokens a second below what the machine could do."""
    if observed.setting("backend") == "reference":
        yield Finding(
            name="reference-backend",
            chapter="throughput",
            severity="warning",
            evidence="the backend is reference",
            cause="NumPy computes the model, many times slower than the C++ kernels",
            change="leave out --backend reference",
        )
    elif observed.setting("isa") == "portable":
        yield Finding(
            name="portable-kernels",
            chapter="throughput",
            severity="warning",
            evidence="the kernels are the portable ones",
            cause="OCTAVO_ISA=portable was set, or the processor is older than AVX2 or ARM's dot product",
            change="leave OCTAVO_ISA unset",
        )
    threads, cpus = observed.number("threads"), observed.number("cpus")
    if threads is not None and cpus is not None and threads != cpus:
        few = threads < cpus
        yield Finding(
            name="threads",
            chapter="throughput",
            severity="warning",
            evidence=f"{threads:.0f} kernel threads on {cpus:.0f} CPUs",
            cause="CPUs stay idle" if few else "threads take turns on CPUs, and each step waits for the last",
            change=f"leave out --threads {threads:.0f}",
        )
    yield from _api_processes(observed)
    steps = observed.work.histogram("octavo_step_sequences")
    if steps.count >= ENOUGH_STEPS and steps.mean < FEW_SEQUENCES and observed.waiting < 1:
        yield Finding(
            name="low-concurrency",
            chapter="throughput",
            severity="note",
            evidence=f"a step has {steps.mean:.1f} sequences on average {observed.period}, and none wait",
            cause="clients send few requests at a time; a batch would cost little more than one",
            change="send more requests at once where throughput matters",
        )


def _api_processes(observed: Observation) -> Iterator[Finding]:
    if not observed.is_recent or not observed.seconds:
        return
    used = observed.work.by("process", "octavo_api_process_cpu_seconds_total")
    waited = observed.work.by("process", "octavo_api_process_cpu_wait_seconds_total")
    busy = {number: seconds + waited.get(number, 0.0) for number, seconds in used.items()}
    busiest = max(busy, key=busy.__getitem__, default="")
    steps = observed.work.histogram("octavo_step_seconds").sum / observed.seconds
    if not busy or busy[busiest] < BUSY_PROCESS * observed.seconds or steps > IDLE_ENGINE:
        return
    change = f"raise --api-server-count from {len(used)} to {len(used) + 1}"
    short_of_cpus = waited.get(busiest, 0.0) > used[busiest]
    if short_of_cpus or len(used) >= (observed.number("cpus") or math.inf):
        change = f"add CPUs, and raise --api-server-count from {len(used)}; or add replicas"
    share, running = busy[busiest] / observed.seconds, used[busiest] / observed.seconds
    yield Finding(
        name="api-process-saturated",
        chapter="throughput",
        severity="warning",
        evidence=f"API process {busiest} had something to do for {share:.0%} of the time, and a CPU to do it "
        f"on for {running:.0%}; the engine computed for {steps:.0%}",
        cause="it parses, tokenises and writes answers as fast as one process can, and the engine waits",
        change=change,
    )
