"""Prometheus metrics under vLLM V1's names, so that its dashboards and autoscalers work unchanged.

Two sources: each step of the engine (`on_step`: load, cache, tokens, gaps between tokens) and each request
as the server sees it (`RequestTimer`: first token, end to end, outcome).
"""

from __future__ import annotations

import time
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

from octavo.engine.messages import SchedulerStats, StepOutputs
from octavo.outputs import RequestOutput

LABELS = ("model_name", "engine")

TTFT_BUCKETS = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75),
    *(1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0),
)
TOKEN_GAP_BUCKETS = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75),
    *(1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0),
)
E2E_BUCKETS = (
    *(0.05, 0.1, 0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0),
    *(60.0, 120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0),
)
STEP_TOKEN_BUCKETS = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)


class RunningTotal:
    """A counter fed with totals that begin again at 0 when the engine process is replaced."""

    def __init__(self, counter: Counter) -> None:
        self._counter = counter
        self._seen = 0

    def update(self, total: int) -> None:
        """Add what has come since the last total; a smaller total is a new process's."""
        grown = total - self._seen if total >= self._seen else total
        self._seen = total
        if grown:
            self._counter.inc(grown)


class Metrics:
    """The registry of one server; not thread-safe, all calls come from the event loop."""

    def __init__(self, model_name: str, max_model_len: int) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._labels = (model_name, "0")

        self._running = self._gauge("num_requests_running", "Sequences in the running batch.")
        self._waiting = self._gauge("num_requests_waiting", "Sequences that wait for their first step.")
        usage = "Share of the KV blocks that are in use; 1 is full."
        self._kv_usage = self._gauge("kv_cache_usage_perc", usage)
        self._gpu_usage = self._gauge("gpu_cache_usage_perc", usage + " The older name.")
        self._hit_rate = self._gauge("cpu_prefix_cache_hit_rate", "Prefix cache hits over queries.")
        self._queries = self._total("prefix_cache_queries", "Prompt tokens looked up in the prefix cache.")
        self._hits = self._total("prefix_cache_hits", "Prompt tokens that the prefix cache gave.")
        self._preemptions = self._total("num_preemptions", "Sequences put back in the queue for memory.")
        self._step_tokens = self._histogram(
            "iteration_tokens_total", "Tokens in a step, prefill and decode.", STEP_TOKEN_BUCKETS
        )

        self.prompt_tokens = self._counter("prompt_tokens", "Prompt tokens of requests that got a token.")
        self._generation_tokens = self._counter("generation_tokens", "Generated tokens.")
        self._gap = self._histogram(
            "inter_token_latency_seconds", "Time between two outputs of a sequence.", TOKEN_GAP_BUCKETS
        )
        self._gap_by_older_name = self._histogram(
            "time_per_output_token_seconds", "The older name of inter_token_latency.", TOKEN_GAP_BUCKETS
        )
        self.request_token_time = self._histogram(
            "request_time_per_output_token_seconds",
            "A request's mean time per token after the first.",
            TOKEN_GAP_BUCKETS,
        )
        self.ttft = self._histogram("time_to_first_token_seconds", "Time to first token.", TTFT_BUCKETS)
        self.e2e = self._histogram("e2e_request_latency_seconds", "Arrival to last token.", E2E_BUCKETS)
        token_buckets = tuple(_one_two_five(max_model_len))
        self.request_prompt = self._histogram(
            "request_prompt_tokens", "Prompt tokens of a request.", token_buckets
        )
        self.request_generation = self._histogram(
            "request_generation_tokens", "Generated tokens of a request.", token_buckets
        )
        self._success = Counter(
            "vllm:request_success",
            "Requests that ended.",
            (*LABELS, "finished_reason"),
            registry=self.registry,
        )
        for reason in ("stop", "length", "abort"):
            self._success.labels(*self._labels, reason)
        self.failure = self._counter("request_failure", "Requests that the engine could not finish.")
        self._last_output: dict[str, float] = {}

    def render(self) -> bytes:
        """The metrics in Prometheus's text format."""
        return generate_latest(self.registry)

    def on_step(self, step: StepOutputs) -> None:
        """Take in one step of the engine."""
        now = time.monotonic()
        num_tokens = 0
        for output in step.outputs:
            num_tokens += len(output.token_ids)
            last = self._last_output.pop(output.request_id, None)
            if last is not None and output.token_ids:
                self._gap.observe(now - last)
                self._gap_by_older_name.observe(now - last)
            if output.finish_reason is None:
                self._last_output[output.request_id] = now
        if num_tokens:
            self._generation_tokens.inc(num_tokens)
        if step.stats.num_scheduled_tokens:
            self._step_tokens.observe(step.stats.num_scheduled_tokens)
        self._forget_aborted(step.stats)
        self._on_stats(step.stats)

    def finished(self, reason: str) -> None:
        """Count a completion that ended with this finish reason."""
        self._success.labels(*self._labels, reason).inc()

    def _forget_aborted(self, stats: SchedulerStats) -> None:
        """Drop what is kept of sequences that were aborted, which have no last output; oldest first."""
        most = 2 * (stats.num_running + stats.num_waiting) + 64
        while len(self._last_output) > most:
            del self._last_output[next(iter(self._last_output))]

    def _on_stats(self, stats: SchedulerStats) -> None:
        self._running.set(stats.num_running)
        self._waiting.set(stats.num_waiting)
        usage = 1 - stats.num_free_blocks / stats.num_blocks if stats.num_blocks else 0.0
        self._kv_usage.set(usage)
        self._gpu_usage.set(usage)
        self._queries.update(stats.prefix_cache_queries)
        self._hits.update(stats.prefix_cache_hits)
        if stats.prefix_cache_queries:
            self._hit_rate.set(stats.prefix_cache_hits / stats.prefix_cache_queries)
        self._preemptions.update(stats.num_preemptions)

    def _gauge(self, name: str, help: str) -> Gauge:
        return Gauge(f"vllm:{name}", help, LABELS, registry=self.registry).labels(*self._labels)

    def _counter(self, name: str, help: str) -> Counter:
        return Counter(f"vllm:{name}", help, LABELS, registry=self.registry).labels(*self._labels)

    def _total(self, name: str, help: str) -> RunningTotal:
        return RunningTotal(self._counter(name, help))

    def _histogram(self, name: str, help: str, buckets: tuple[float, ...]) -> Histogram:
        histogram = Histogram(f"vllm:{name}", help, LABELS, registry=self.registry, buckets=buckets)
        return histogram.labels(*self._labels)


class RequestTimer:
    """Follows one request from its arrival; exactly one of `end` and `fail` closes it."""

    __slots__ = ("_arrival", "_first", "_last", "_metrics", "_num_choices", "_num_open", "_num_tokens")

    def __init__(self, metrics: Metrics, num_choices: int) -> None:
        self._metrics = metrics
        self._num_choices = num_choices
        self._arrival = time.monotonic()
        self._first: float | None = None
        self._last = 0.0
        self._num_tokens = 0
        self._num_open = num_choices

    def update(self, output: RequestOutput) -> None:
        """Take in an update, whose completions hold only tokens that no earlier one held."""
        self._last = time.monotonic()
        if self._first is None:
            times = output.metrics
            first = times.first_token_time if times else None
            self._first = self._last if first is None else first
            num_prompt_tokens = len(output.prompt_token_ids)
            self._metrics.ttft.observe(self._first - self._arrival)
            self._metrics.prompt_tokens.inc(num_prompt_tokens)
            self._metrics.request_prompt.observe(num_prompt_tokens)
        for completion in output.outputs:
            self._num_tokens += len(completion.token_ids)
            if completion.finish_reason is not None:
                self._num_open -= 1
                self._metrics.finished(completion.finish_reason)

    def end(self) -> None:
        """The request is over; completions that had not ended count as aborted, with no latency."""
        for _ in range(self._num_open):
            self._metrics.finished("abort")
        if self._num_open or self._first is None:
            return
        self._metrics.e2e.observe(self._last - self._arrival)
        self._metrics.request_generation.observe(self._num_tokens)
        gaps = self._num_tokens / self._num_choices - 1
        if gaps > 0:
            self._metrics.request_token_time.observe((self._last - self._first) / gaps)

    def fail(self) -> None:
        """The engine could not finish the request."""
        self._metrics.failure.inc()


def _one_two_five(most: int) -> Iterator[int]:
    """1, 2, 5, 10, 20, 50, ... up to `most`."""
    decade = 1
    while True:
        for step in (1, 2, 5):
            if step * decade > most:
                return
            yield step * decade
        decade *= 10
