"""One request, from its arrival to its end, as the server sees it."""

from __future__ import annotations

import time

from octavo.observe.request_series import RequestSeries
from octavo.observe.tracing import Course, RequestTrace
from octavo.outputs import RequestMetrics, RequestOutput


class RequestTimer:
    """Follows one request from its arrival; exactly one of `end` and `fail` closes it."""

    __slots__ = (
        "_arrival",
        "_finish_reasons",
        "_first",
        "_last",
        "_max_tokens",
        "_metrics",
        "_num_cached",
        "_num_open",
        "_num_prompt",
        "_num_tokens",
        "_times",
        "_trace",
    )

    def __init__(
        self,
        metrics: RequestSeries,
        num_choices: int,
        max_tokens: int | None = None,
        trace: RequestTrace | None = None,
    ) -> None:
        """`max_tokens` is the request's limit, None if it has none of its own."""
        self._metrics = metrics
        self._max_tokens = max_tokens
        self._arrival = time.monotonic()
        self._first: float | None = None
        self._last = 0.0
        self._times: RequestMetrics | None = None
        self._num_prompt = 0
        self._num_cached = 0
        self._num_tokens = [0] * num_choices
        self._num_open = num_choices
        self._finish_reasons: list[str] = []
        self._trace = trace

    def update(self, output: RequestOutput) -> None:
        """Take in an update, whose completions hold only tokens that no earlier one held."""
        self._last = time.monotonic()
        if self._first is None:
            self._begin(output)
        for completion in output.outputs:
            self._num_tokens[completion.index] += len(completion.token_ids)
            if completion.finish_reason is not None:
                self._num_open -= 1
                self._finish_reasons.append(completion.finish_reason)
                self._metrics.finished(completion.finish_reason)

    def end(self) -> None:
        """The request is over; completions that had not ended count as aborted, with no latency."""
        for _ in range(self._num_open):
            self._finish_reasons.append("abort")
            self._metrics.finished("abort")
        self._end_trace(failed=False)
        if self._num_open or self._first is None:
            return
        metrics, total = self._metrics, sum(self._num_tokens)
        metrics.observe("e2e", self._last - self._arrival)
        metrics.observe("generation", total)
        metrics.observe("longest", max(self._num_tokens))
        metrics.observe("choices", len(self._num_tokens))
        metrics.observe("prefill_computed", self._num_prompt - self._num_cached)
        if self._max_tokens is not None:
            metrics.observe("max_tokens", self._max_tokens)
        gaps = total / len(self._num_tokens) - 1
        if gaps > 0:
            metrics.observe("token_time", (self._last - self._first) / gaps)
        self._observe_phases(self._first)

    def fail(self) -> None:
        """The engine could not finish the request."""
        self._metrics.failed(self._num_open)
        self._end_trace(failed=True)

    def _end_trace(self, *, failed: bool) -> None:
        if self._trace is None:
            return
        aborted = failed or "abort" in self._finish_reasons
        self._trace.end(
            Course(
                arrival=self._arrival,
                scheduled=self._times.scheduled_time if self._times else None,
                first_token=self._first,
                last=time.monotonic() if aborted else max(self._last, self._arrival),
                prompt_tokens=self._num_prompt,
                cached_tokens=self._num_cached,
                completion_tokens=sum(self._num_tokens),
                finish_reasons=self._finish_reasons,
                failed=failed,
            )
        )

    def _begin(self, output: RequestOutput) -> None:
        self._times = output.metrics
        first = self._times.first_token_time if self._times else None
        self._first = self._last if first is None else first
        self._num_prompt = len(output.prompt_token_ids)
        self._num_cached = min(output.num_cached_tokens, self._num_prompt)
        self._metrics.observe("ttft", self._first - self._arrival)
        self._metrics.prompt_began(self._num_prompt, self._num_cached)
        self._metrics.observe("prompt", self._num_prompt)

    def _observe_phases(self, first: float) -> None:
        """Queue, prefill and decode; a request that ended without a step has none of them."""
        scheduled = self._times.scheduled_time if self._times else None
        if scheduled is None:
            return
        metrics = self._metrics
        metrics.observe("queue_time", max(0.0, scheduled - self._arrival))
        metrics.observe("prefill_time", max(0.0, first - scheduled))
        metrics.observe("decode_time", self._last - first)
        metrics.observe("inference_time", self._last - scheduled)
