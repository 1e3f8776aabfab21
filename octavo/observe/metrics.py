"""Prometheus metrics under vLLM V1's names, so that its dashboards and autoscalers work unchanged.

Three sources: each step of the engine (`Metrics.on_step`), each request as the server sees it
(`RequestTimer`), and what is looked up when Prometheus asks (`EngineCollector`, the processes).
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol, TypeVar

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)

from octavo.engine.messages import SchedulerStats, StepOutputs
from octavo.observe import buckets
from octavo.observe.api_processes import ApiProcesses
from octavo.observe.engine_collector import EngineCollector, WatchedEngine
from octavo.observe.histogram import Histogram
from octavo.observe.offload_series import OffloadSeries
from octavo.observe.other_names import OtherNames
from octavo.observe.process_series import ApiProcessCollector, ProcessSeries
from octavo.observe.request_series import RequestValue
from octavo.observe.residency_series import ResidencySeries
from octavo.observe.running_total import RunningTotal

LABELS = ("model_name", "engine")
FINISH_REASONS = ("stop", "length", "abort", "error", "timeout")
ERROR = "error"

Family = TypeVar("Family", Gauge, Counter)


class ProcessEngine(WatchedEngine, Protocol):
    """An engine that has a process of its own."""

    @property
    def pid(self) -> int | None:
        """The process id, None while there is none."""
        ...


class Totals:
    """Plain counts since the server began, for the periodic line of statistics."""

    __slots__ = ("generated_tokens", "prefill_tokens")

    def __init__(self) -> None:
        self.prefill_tokens = 0
        self.generated_tokens = 0


class Metrics:
    """The series of one server; not thread-safe, all calls come from the event loop."""

    def __init__(self, model_name: str, max_model_len: int, kv_cache_metrics: bool = False) -> None:
        """`kv_cache_metrics` has series for the residency of KV blocks."""
        self.totals = Totals()
        self.stats = SchedulerStats()
        """Of the latest step."""
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        self._labels = (model_name, "0")
        self._last_output: dict[str, float] = {}
        self._add_step_series()
        self._offload = OffloadSeries(self._registry, dict(zip(LABELS, self._labels, strict=True)))
        self._add_request_series(buckets.one_two_five(max_model_len))
        self._add_absent_series()
        self._residency = ResidencySeries(self._histogram) if kv_cache_metrics else None

    def watch(self, engine: ProcessEngine, api: ApiProcesses) -> None:
        """Show the engine's settings and condition, its process and those of the API as well."""
        labels = dict(zip(LABELS, self._labels, strict=True))
        self._registry.register(EngineCollector(engine, labels))

        def engine_process() -> Iterable[tuple[Mapping[str, str], int]]:
            return [(labels, engine.pid)] if engine.pid else []

        self._registry.register(ProcessSeries("octavo_engine", engine_process))
        self._registry.register(ApiProcessCollector(api, labels))

    def render(self) -> bytes:
        """The metrics in Prometheus's text format."""
        return generate_latest(OtherNames(self._registry))

    def on_step(self, step: StepOutputs) -> None:
        """Take in one step of the engine."""
        now = time.monotonic()
        num_tokens = 0
        num_decodes: dict[float, int] = {}
        for output in step.outputs:
            num_tokens += len(output.token_ids)
            last = self._last_output.pop(output.request_id, None)
            if last is not None and output.token_ids:
                num_decodes[last] = num_decodes.get(last, 0) + 1
            if output.finish_reason is None:
                self._last_output[output.request_id] = now
        for last, count in num_decodes.items():
            self.token_gap.observe(now - last, count)
        if num_tokens:
            self._generation_tokens.inc(num_tokens)
            self.totals.generated_tokens += num_tokens
        stats = step.stats
        if stats.num_scheduled_tokens:
            self.totals.prefill_tokens += max(0, stats.num_scheduled_tokens - sum(num_decodes.values()))
            self._step_tokens.observe(stats.num_scheduled_tokens)
            self._step_sequences.observe(stats.num_scheduled_sequences)
            self._step_seconds.observe(stats.step_seconds)
        if self._residency is not None:
            self._residency.observe(stats.evictions)
        self._forget_aborted(stats)
        self._on_stats(stats)

    def observe(self, value: RequestValue, amount: float) -> None:
        """Count a request in the histogram of that value."""
        self._of_requests[value].observe(amount)

    def finished(self, reason: str) -> None:
        """Count a completion that ended with this finish reason."""
        self._success[reason].inc()

    def failed(self, num_choices: int) -> None:
        """Count a request that failed, of whose completions so many were still open."""
        self._failure.inc()
        self._success[ERROR].inc(num_choices)

    def prompt_began(self, num_tokens: int, num_cached: int) -> None:
        """Count the prompt of a request that got its first token."""
        self._prompt_tokens.inc(num_tokens)
        self._prompt_tokens_computed.inc(num_tokens - num_cached)
        self._prompt_tokens_from_cache.inc(num_cached)
        self._prompt_tokens_cached.inc(num_cached)

    def _forget_aborted(self, stats: SchedulerStats) -> None:
        """Drop what is kept of sequences that were aborted, which have no last output; oldest first."""
        most = 2 * (stats.num_running + stats.num_waiting) + 64
        while len(self._last_output) > most:
            del self._last_output[next(iter(self._last_output))]

    def _on_stats(self, stats: SchedulerStats) -> None:
        self.stats = stats
        self._running.set(stats.num_running)
        self._waiting.set(stats.num_waiting)
        self._waiting_for_capacity.set(stats.num_waiting)
        self._kv_usage.set(kv_cache_usage(stats))
        self._queries.update(stats.prefix_cache_queries)
        self._hits.update(stats.prefix_cache_hits)
        for gauge in self._hit_rates:
            gauge.set(prefix_cache_hit_rate(stats))
        self._preemptions.update(stats.num_preemptions)
        if stats.offload is not None:
            self._offload.update(stats.offload)

    def _add_step_series(self) -> None:
        self._running = self._gauge("num_requests_running", "Sequences in the running batch.")
        self._waiting = self._gauge("num_requests_waiting", "Sequences that wait for their first step.")
        by_reason = self._labelled(
            Gauge, "num_requests_waiting_by_reason", "Waiting sequences, by what they wait for.", "reason"
        )
        self._waiting_for_capacity = by_reason.labels(*self._labels, "capacity")
        by_reason.labels(*self._labels, "deferred")
        self._kv_usage = self._gauge(
            "kv_cache_usage_perc", "Share of the KV blocks that are in use; 1 is full."
        )
        self._queries = RunningTotal(
            self._counter("prefix_cache_queries", "Prompt tokens looked up in the prefix cache.")
        )
        self._hits = RunningTotal(
            self._counter("prefix_cache_hits", "Prompt tokens that the prefix cache gave.")
        )
        self._hit_rates = [
            self._gauge(f"{device}_prefix_cache_hit_rate", "Prefix cache hits over queries so far.")
            for device in ("gpu", "cpu")
        ]
        self._preemptions = RunningTotal(
            self._counter("num_preemptions", "Sequences put back in the queue for memory.")
        )
        self._generation_tokens = self._counter("generation_tokens", "Generated tokens.")
        self._step_tokens = self._histogram(
            "vllm:iteration_tokens_total", "Tokens in a step, prefill and decode.", buckets.STEP_TOKENS
        )
        self._step_sequences = self._histogram(
            "octavo_step_sequences", "Sequences in a step.", buckets.STEP_SEQUENCES
        )
        self._step_seconds = self._histogram(
            "octavo_step_seconds", "Time of a step in the engine.", buckets.STEP_SECONDS
        )
        self.token_gap = self._histogram(
            "vllm:inter_token_latency_seconds",
            "Time between two outputs of a sequence.",
            buckets.TOKEN_SECONDS,
        )

    def _add_request_series(self, token_counts: Sequence[int]) -> None:
        self._prompt_tokens = self._counter("prompt_tokens", "Prompt tokens of requests that got a token.")
        by_source = self._labelled(
            Counter, "prompt_tokens_by_source", "Prompt tokens, by where they came from.", "source"
        )
        self._prompt_tokens_computed = by_source.labels(*self._labels, "local_compute")
        self._prompt_tokens_from_cache = by_source.labels(*self._labels, "local_cache_hit")
        by_source.labels(*self._labels, "external_kv_transfer")
        self._prompt_tokens_cached = self._counter(
            "prompt_tokens_cached", "Prompt tokens that came from a cache."
        )
        success = self._labelled(Counter, "request_success", "Completions that ended.", "finished_reason")
        self._success = {reason: success.labels(*self._labels, reason) for reason in FINISH_REASONS}
        # One series of the other family must have its labels for failures / successes to match any.
        self._failure = self._labelled(
            Counter,
            "request_failure",
            "Requests that the engine could not finish; the reason is always stop, so that dividing by "
            "request_success compares the two.",
            "finished_reason",
        ).labels(*self._labels, "stop")

        def seconds(name: str, help: str) -> Histogram:
            return self._histogram(f"vllm:{name}_seconds", help, buckets.REQUEST_SECONDS)

        def tokens(name: str, help: str) -> Histogram:
            return self._histogram(f"vllm:{name}", help, token_counts)

        self.ttft = self._histogram(
            "vllm:time_to_first_token_seconds", "Arrival to first token.", buckets.TTFT_SECONDS
        )
        self._of_requests: dict[RequestValue, Histogram] = {
            "ttft": self.ttft,
            "token_time": self._histogram(
                "vllm:request_time_per_output_token_seconds",
                "A request's mean time per token after the first.",
                buckets.TOKEN_SECONDS,
            ),
            "e2e": seconds("e2e_request_latency", "Arrival to last token."),
            "queue_time": seconds("request_queue_time", "Arrival to the first step that ran the request."),
            "prefill_time": seconds("request_prefill_time", "First step to first token."),
            "decode_time": seconds("request_decode_time", "First token to last token."),
            "inference_time": seconds("request_inference_time", "First step to last token."),
            "prompt": tokens("request_prompt_tokens", "Prompt tokens of a request."),
            "prefill_computed": tokens(
                "request_prefill_kv_computed_tokens", "Prompt tokens of a request that no cache gave."
            ),
            "generation": tokens("request_generation_tokens", "Generated tokens of a request."),
            "longest": tokens(
                "request_max_num_generation_tokens", "Tokens of a request's longest completion."
            ),
            "max_tokens": tokens("request_params_max_tokens", "The max_tokens of a request."),
            "choices": self._histogram(
                "vllm:request_params_n", "Completions that a request asks for.", buckets.CHOICES
            ),
        }

    def _add_absent_series(self) -> None:
        """What vLLM always exports of parts that octavo does not have, so that sums over both find them."""
        for what in ("queries", "hits"):
            self._counter(f"mm_cache_{what}", "Always 0: there is no such cache.")
        self._counter("prompt_tokens_recomputed", "Always 0: a cached token is never computed again.")
        state = self._labelled(Gauge, "engine_sleep_state", "The engine is always awake.", "sleep_state")
        for name in ("awake", "weights_offloaded", "discard_all"):
            state.labels(*self._labels, name).set(name == "awake")

    def _gauge(self, name: str, help: str) -> Gauge:
        return Gauge(f"vllm:{name}", help, LABELS, registry=self._registry).labels(*self._labels)

    def _counter(self, name: str, help: str) -> Counter:
        return Counter(f"vllm:{name}", help, LABELS, registry=self._registry).labels(*self._labels)

    def _labelled(self, kind: type[Family], name: str, help: str, label: str) -> Family:
        return kind(f"vllm:{name}", help, (*LABELS, label), registry=self._registry)

    def _histogram(self, name: str, help: str, bounds: Sequence[float]) -> Histogram:
        labels = dict(zip(LABELS, self._labels, strict=True))
        return Histogram(name, help, labels, bounds, self._registry)


def kv_cache_usage(stats: SchedulerStats) -> float:
    """Share of the KV blocks that are in use."""
    return 1 - stats.num_free_blocks / stats.num_blocks if stats.num_blocks else 0.0


def prefix_cache_hit_rate(stats: SchedulerStats) -> float:
    """Share of the prompt tokens looked up in the prefix cache that it had."""
    return stats.prefix_cache_hits / stats.prefix_cache_queries if stats.prefix_cache_queries else 0.0
