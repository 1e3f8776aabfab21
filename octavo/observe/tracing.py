"""OpenTelemetry traces: a span for each request, with its queue, prefill and decode inside.

Names and attributes are vLLM's. Needs `pip install 'octavo[otlp]'` (`[otlp-grpc]` for gRPC); the SDK's OTEL_*
variables work.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import octavo
from octavo.observe.otlp import collector
from octavo.sampling_params import SamplingParams

if TYPE_CHECKING:
    from opentelemetry.context import Context

caller: ContextVar[Context | None] = ContextVar("caller", default=None)
"""The trace that the request of this task belongs to, as its headers say."""


@dataclass(frozen=True, slots=True)
class Course:
    """How a request went: seconds of `time.monotonic()`, None for what it never came to, and tokens."""

    arrival: float
    scheduled: float | None
    first_token: float | None
    last: float
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    finish_reasons: Sequence[str]
    failed: bool


class Tracer:
    """Sends spans to a collector in the background, in batches."""

    def __init__(self, endpoint: str, model_name: str) -> None:
        """Raises ValueError as `collector` does."""
        exporter = collector(endpoint).exporter()
        from opentelemetry import trace
        from opentelemetry.sdk.resources import OTELResourceDetector, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._model_name = model_name
        self._api: Any = trace
        self._propagator: Any = TraceContextTextMapPropagator()
        named = Resource({"service.name": "octavo", "service.version": octavo.__version__})
        # The environment's OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES stand over these.
        self._provider: Any = TracerProvider(resource=named.merge(OTELResourceDetector().detect()))
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer: Any = self._provider.get_tracer("octavo", octavo.__version__)

    def remember_caller(self, headers: Mapping[str, str]) -> None:
        """Take the trace from a request's `traceparent`, for the spans of this task."""
        caller.set(
            self._propagator.extract({name: headers[name] for name in _TRACE_HEADERS if name in headers})
        )

    def start(self, request_id: str, params: SamplingParams) -> RequestTrace:
        """Begin to follow a request of this task."""
        return RequestTrace(self, request_id, params, caller.get())

    def record(self, request_id: str, params: SamplingParams, parent: Context | None, course: Course) -> None:
        """Make the spans of a request that is over."""
        # Spans have the time of day, the course a clock that never jumps.
        offset = time.time_ns() - time.monotonic_ns()

        def at(seconds: float) -> int:
            return int(seconds * 1e9) + offset

        span = self._tracer.start_span(
            "llm_request",
            context=parent,
            kind=self._api.SpanKind.SERVER,
            start_time=at(course.arrival),
            attributes=self._attributes(request_id, params, course),
        )
        if course.failed:
            span.set_status(self._api.StatusCode.ERROR, "the engine could not finish the request")
        inside = self._api.set_span_in_context(span)
        for name, start, end in _phases(course):
            part = self._tracer.start_span(name, context=inside, start_time=at(start))
            part.end(end_time=at(end))
        span.end(end_time=at(course.last))

    def close(self) -> None:
        """Send what is left; may take as long as the exporter's timeout."""
        self._provider.shutdown()

    def _attributes(self, request_id: str, params: SamplingParams, course: Course) -> dict[str, Any]:
        found: dict[str, Any] = {
            "gen_ai.response.model": self._model_name,
            "gen_ai.request.id": request_id,
            "gen_ai.request.n": params.n,
            "gen_ai.request.temperature": params.temperature,
            "gen_ai.request.top_p": params.top_p,
            "gen_ai.usage.prompt_tokens": course.prompt_tokens,
            "gen_ai.usage.completion_tokens": course.completion_tokens,
            "gen_ai.response.finish_reasons": list(course.finish_reasons),
            "gen_ai.latency.e2e": course.last - course.arrival,
            "octavo.cached_tokens": course.cached_tokens,
        }
        if params.max_tokens is not None:
            found["gen_ai.request.max_tokens"] = params.max_tokens
        if course.first_token is not None:
            found["gen_ai.latency.time_to_first_token"] = course.first_token - course.arrival
        phases = {name: end - start for name, start, end in _phases(course)}
        if "queue" in phases:
            found["gen_ai.latency.time_in_queue"] = phases["queue"]
            found["gen_ai.latency.time_in_model_inference"] = course.last - course.arrival - phases["queue"]
        for name in ("prefill", "decode"):
            if name in phases:
                found[f"gen_ai.latency.time_in_model_{name}"] = phases[name]
        return found


class RequestTrace:
    """The trace of one request that runs."""

    __slots__ = ("_params", "_parent", "_request_id", "_tracer")

    def __init__(
        self, tracer: Tracer, request_id: str, params: SamplingParams, parent: Context | None
    ) -> None:
        self._tracer = tracer
        self._request_id = request_id
        self._params = params
        self._parent = parent

    def end(self, course: Course) -> None:
        """The request is over."""
        self._tracer.record(self._request_id, self._params, self._parent, course)


_TRACE_HEADERS = ("traceparent", "tracestate")


def _phases(course: Course) -> list[tuple[str, float, float]]:
    """Name, start and end of what the request came to; each begins where the one before it ended."""
    if course.scheduled is None:
        return []
    scheduled = max(course.arrival, course.scheduled)
    if course.first_token is None:
        return [("queue", course.arrival, scheduled), ("prefill", scheduled, max(scheduled, course.last))]
    first = max(scheduled, course.first_token)
    return [
        ("queue", course.arrival, scheduled),
        ("prefill", scheduled, first),
        ("decode", first, max(first, course.last)),
    ]
