"""Latency: queues, prompts in too many steps, prompts that delay tokens."""

from __future__ import annotations

from collections.abc import Iterator

from octavo.doctor.finding import Finding
from octavo.doctor.observation import Observation
from octavo.doctor.preemption import more_kv_cache

SLOW_FIRST_TOKEN = 2.0
SLOW_TOKEN = 0.1
"""p95 in seconds, above which latency is a problem."""
SMALL_BUDGET = 256
MANY_STEPS = 4
SPIKES = 5
ENOUGH_WAITS = 10


def check(observed: Observation) -> Iterator[Finding]:
    """What makes first tokens late, or tokens uneven."""
    yield from _queue(observed)
    yield from _prefix_caching(observed)
    yield from _token_budget(observed)
    yield from _chunked_prefill(observed)
    yield from _long_steps(observed)


def _queue(observed: Observation) -> Iterator[Finding]:
    queue, e2e = (
        observed.histogram("request_queue_time_seconds"),
        observed.histogram("e2e_request_latency_seconds"),
    )
    waited = queue.count >= ENOUGH_WAITS and queue.mean > 0.2 * e2e.mean and queue.mean > 0.1
    if observed.waiting < 1 and not waited:
        return
    evidence = f"{observed.waiting:.0f} requests wait while {observed.running:.0f} run"
    if queue.count:
        evidence += f"; the mean wait is {queue.mean:.2f} s of {e2e.mean:.2f} s {observed.period}"
    short_of_blocks = observed.kv_usage >= 0.8 or observed.work.value("vllm:num_preemptions_total") > 0
    limit = observed.number("max_num_seqs")
    batch = observed.work.histogram("octavo_step_sequences").quantile(0.95)
    most_running = max(observed.running, batch)
    if limit is not None and most_running >= 0.9 * limit and not short_of_blocks:
        yield Finding(
            name="max-num-seqs",
            chapter="throughput",
            severity="warning",
            evidence=f"{evidence}; the KV cache is {observed.kv_usage:.0%} full",
            cause=f"--max-num-seqs {limit:.0f} keeps requests waiting though there is memory for them",
            change=f"raise --max-num-seqs from {limit:.0f} to {max(2 * limit, 16):.0f}",
        )
    elif short_of_blocks:
        yield Finding(
            name="queue-for-kv-cache",
            chapter="latency",
            severity="warning",
            evidence=f"{evidence}; the KV cache is {observed.kv_usage:.0%} full",
            cause="requests wait for room in the KV cache",
            change=f"{more_kv_cache(observed)}, or add replicas",
        )
    else:
        yield Finding(
            name="queue",
            chapter="latency",
            severity="warning",
            evidence=evidence,
            cause="more requests come than one replica can compute in time",
            change="add replicas, or set --target-ttft so that requests that would be late are refused",
        )


def _prefix_caching(observed: Observation) -> Iterator[Finding]:
    if observed.setting("enable_prefix_caching") == "False":
        prompts = observed.histogram("request_prompt_tokens")
        yield Finding(
            name="prefix-caching-off",
            chapter="latency",
            severity="warning",
            evidence=f"enable_prefix_caching is off; prompts have {prompts.mean:.0f} tokens on average",
            cause="what prompts have in common, system prompts and earlier turns, is computed every time",
            change="leave out --no-enable-prefix-caching",
        )
        return
    queries = observed.work.value("vllm:prefix_cache_queries_total")
    hits = observed.work.value("vllm:prefix_cache_hits_total")
    if queries > 10_000 and hits < 0.05 * queries:
        yield Finding(
            name="prefix-cache-misses",
            chapter="latency",
            severity="note",
            evidence=f"{hits / queries:.1%} of {queries:,.0f} prompt tokens came from the prefix cache",
            cause="prompts begin differently, or their blocks are gone before they come again",
            change="put what prompts have in common first; a larger KV cache keeps blocks longer",
        )


def _token_budget(observed: Observation) -> Iterator[Finding]:
    budget = observed.number("max_num_batched_tokens")
    prompt = observed.histogram("request_prefill_kv_computed_tokens").quantile(0.5)
    if budget is None or budget >= SMALL_BUDGET or prompt < MANY_STEPS * budget:
        return
    prefill = observed.histogram("request_prefill_time_seconds").mean
    yield Finding(
        name="max-num-batched-tokens",
        chapter="latency",
        severity="warning",
        evidence=f"the median prompt has {prompt:.0f} tokens to compute, {prompt / budget:.0f} steps of "
        f"{budget:.0f}; prefill takes {prefill:.2f} s on average",
        cause="each step computes few tokens of a prompt and reads all weights for them",
        change=f"raise --max-num-batched-tokens from {budget:.0f} to {2 * SMALL_BUDGET}",
    )


def _chunked_prefill(observed: Observation) -> Iterator[Finding]:
    if observed.setting("enable_chunked_prefill") != "False":
        return
    gaps = observed.histogram("inter_token_latency_seconds")
    p50, p99 = gaps.quantile(0.5), gaps.quantile(0.99)
    spikes = gaps.count > 0 and p99 > SPIKES * p50
    prompt = observed.histogram("request_prompt_tokens").quantile(0.95)
    yield Finding(
        name="chunked-prefill-off",
        chapter="latency",
        severity="warning" if spikes or prompt > SMALL_BUDGET else "note",
        evidence=f"enable_chunked_prefill is off; the time between tokens is {1e3 * p50:.0f} ms at p50 and "
        f"{1e3 * p99:.0f} ms at p99, the p95 of prompts {prompt:.0f} tokens",
        cause="every prompt is computed in one step, and all other sequences wait for it",
        change="leave out --no-enable-chunked-prefill",
    )


def _long_steps(observed: Observation) -> Iterator[Finding]:
    gaps = observed.histogram("inter_token_latency_seconds")
    budget = observed.number("max_num_batched_tokens")
    steps = observed.work.histogram("octavo_step_seconds")
    tokens = observed.histogram("iteration_tokens_total")
    if budget is None or not gaps.count or gaps.quantile(0.95) <= SLOW_TOKEN:
        return
    if observed.setting("enable_chunked_prefill") == "False" or observed.setting("backend") == "reference":
        return  # These have findings of their own, and explain it.
    if tokens.quantile(0.95) > budget / 4 and budget > 64:
        gap, step = 1e3 * gaps.quantile(0.95), 1e3 * steps.quantile(0.95)
        smaller = max(64, int(budget * 1e3 * SLOW_TOKEN / step) // 16 * 16) if step else 64
        yield Finding(
            name="long-steps",
            chapter="latency",
            severity="warning",
            evidence=f"the p95 of the time between tokens is {gap:.0f} ms, that of steps {step:.0f} ms with "
            f"up to {budget:.0f} tokens",
            cause="prompts in the same steps make sequences that decode wait",
            change=f"lower --max-num-batched-tokens from {budget:.0f} to {min(smaller, int(budget) // 2)}, "
            "or set --target-itl",
        )
