"""Preemption: a KV cache that is too small for what runs."""

from __future__ import annotations

from collections.abc import Iterator

from octavo.doctor.finding import Finding
from octavo.doctor.observation import Observation

MANY_PREEMPTIONS = 0.01
NEARLY_FULL = 0.95


def check(observed: Observation) -> Iterator[Finding]:
    """What points to too small a KV cache."""
    preemptions = observed.work.value("vllm:num_preemptions_total")
    per_request = preemptions / max(observed.finished, 1.0)
    tokens = observed.number("kv_cache_size_tokens")
    size = f" of {tokens:,.0f} tokens" if tokens else ""
    if preemptions and per_request > MANY_PREEMPTIONS:
        yield Finding(
            name="preemptions",
            chapter="preemption",
            severity="warning",
            evidence=f"{preemptions:.0f} preemptions for {observed.finished:.0f} requests {observed.period}",
            cause=f"the KV cache{size} is too small for the sequences that run, which are computed again",
            change=f"{more_kv_cache(observed)}{_fewer_sequences(observed, tokens)}, or add replicas",
        )
    elif observed.kv_usage > NEARLY_FULL:
        yield Finding(
            name="kv-cache-full",
            chapter="preemption",
            severity="warning",
            evidence=f"{observed.kv_usage:.0%} of the KV cache{size} is in use",
            cause="the KV cache is almost too small for the sequences that run",
            change=f"{more_kv_cache(observed)}, or add replicas",
        )


def more_kv_cache(observed: Observation) -> str:
    """The flag that makes the KV cache larger, with its value now."""
    blocks = observed.number("num_gpu_blocks_override")
    share = observed.number("gpu_memory_utilization")
    kv_bytes = observed.number("kv_cache_memory_bytes")
    if blocks is not None:
        return f"leave out --num-gpu-blocks-override {blocks:.0f}"
    if share is not None and share < NEARLY_FULL:
        return f"raise --gpu-memory-utilization from {share:g} to {min(0.95, share + 0.1):.2f}"
    if kv_bytes is not None:
        return f"raise --kv-cache-memory-bytes from {kv_bytes / 2**20:.0f}MiB to {kv_bytes / 2**19:.0f}MiB"
    return "raise --gpu-memory-utilization or --kv-cache-memory-bytes"


def _fewer_sequences(observed: Observation, tokens: float | None) -> str:
    lengths = observed.histogram("request_prompt_tokens").mean
    lengths += observed.histogram("request_generation_tokens").mean
    if not tokens or not lengths:
        return ""
    return f", or lower --max-num-seqs to {max(1, int(tokens / lengths))}, what it holds"
