"""Out of memory: engines that die, memory that is nearly gone."""

from __future__ import annotations

from collections.abc import Iterator

from octavo.doctor.finding import Finding
from octavo.doctor.observation import Observation

LITTLE_MEMORY = 0.05


def check(observed: Observation) -> Iterator[Finding]:
    """What points to too little memory."""
    smaller = less_memory(observed)
    if not observed.healthy:
        yield Finding(
            name="engine-down",
            chapter="memory",
            severity="critical",
            evidence="GET /health answers 503",
            cause="no engine process runs: it starts, or died so often that the server gave up on it",
            change=f"read the log's last lines; if it was killed because memory ran out, {smaller}",
        )
    restarts = observed.last.value("octavo_engine_restarts_total")
    if restarts:
        yield Finding(
            name="engine-restarts",
            chapter="memory",
            severity="critical",
            evidence=f"the engine process was replaced {restarts:.0f} times since the server started",
            cause="it died; mostly the operating system killed it when memory ran out, else it had a fault",
            change=f"the log says which; if memory ran out, {smaller}",
        )
    restarts = observed.last.value("octavo_api_process_restarts_total")
    if restarts:
        yield Finding(
            name="api-process-restarts",
            chapter="memory",
            severity="critical",
            evidence=f"an API process was replaced {restarts:.0f} times since the server started",
            cause="it died, and its connections with it: the operating system killed it because "
            "memory ran out, or it had a fault, its own or that of --middleware",
            change=f"the log says which; if memory ran out, {smaller}",
        )
    total = observed.last.value("octavo_memory_limit_bytes")
    available = observed.last.value("octavo_memory_available_bytes")
    if total and available < LITTLE_MEMORY * total:
        yield Finding(
            name="little-memory",
            chapter="memory",
            severity="warning",
            evidence=f"{available / 1e9:.2f} GB of {total / 1e9:.2f} GB are available",
            cause="weights, KV cache and whatever else runs here leave next to nothing",
            change=smaller,
        )


def less_memory(observed: Observation) -> str:
    """The flags that make the engine smaller, with their values now."""
    share = observed.number("gpu_memory_utilization")
    kv_bytes = observed.number("kv_cache_memory_bytes")
    if share is not None:
        return f"lower --gpu-memory-utilization from {share:g} to {max(0.1, share - 0.1):.2f}"
    if kv_bytes is not None:
        return f"lower --kv-cache-memory-bytes from {kv_bytes / 2**20:.0f}MiB to {kv_bytes / 2**21:.0f}MiB"
    return "lower --gpu-memory-utilization, --kv-cache-memory-bytes or --max-model-len"
