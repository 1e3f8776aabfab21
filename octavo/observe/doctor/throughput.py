"""Throughput: kernels, threads and batches that leave the machine idle."""

from __future__ import annotations

from collections.abc import Iterator

from octavo.observe.doctor.finding import Finding
from octavo.observe.doctor.observation import Observation

FEW_SEQUENCES = 1.5
ENOUGH_STEPS = 100


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
