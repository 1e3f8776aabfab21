"""Traces, as collectors that speak OTLP get them."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from support.live_server import MODEL, LiveServer, live_server

from octavo.observe import tracing
from octavo.observe.metrics import Metrics
from octavo.observe.request_timer import RequestTimer
from octavo.sampling_params import SamplingParams
from octavo.server.config import ServerConfig

trace_service = pytest.importorskip("opentelemetry.proto.collector.trace.v1.trace_service_pb2")

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
SPAN = "00f067aa0ba902b7"


class Collector(http.server.ThreadingHTTPServer):
    """Keeps the spans and the resources that are sent to it."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.spans: list[Any] = []
        self.resources: list[dict[str, str]] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        assert self.path == "/v1/traces"
        body = self.rfile.read(int(self.headers["Content-Length"]))
        request = trace_service.ExportTraceServiceRequest.FromString(body)
        for resource in request.resource_spans:
            self.server.resources.append(values(resource.resource.attributes))
            for scope in resource.scope_spans:
                self.server.spans += scope.spans
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def values(attributes: Any) -> dict[str, Any]:
    """Attributes as plain values."""
    found = {}
    for each in attributes:
        kind = each.value.WhichOneof("value")
        value = getattr(each.value, kind)
        found[each.key] = [item.string_value for item in value.values] if kind == "array_value" else value
    return found


@contextmanager
def collecting() -> Iterator[Collector]:
    with Collector() as collector:
        thread = threading.Thread(target=collector.serve_forever)
        thread.start()
        try:
            yield collector
        finally:
            collector.shutdown()
            thread.join()


def traced(ask: Any) -> Collector:
    """What a collector has after `ask(server)` and the server's end."""
    with collecting() as collector:
        with live_server(ServerConfig(otlp_traces_endpoint=collector.url), step_seconds=0.01) as server:
            ask(server)
        return collector


def complete(server: LiveServer, **headers: str) -> None:
    body = {"prompt": "hello", "max_tokens": 5, "temperature": 0.5, "ignore_eos": True, "seed": 1}
    answer = server.http.post("/v1/completions", json=body, headers=headers)
    assert answer.status_code == 200


def test_a_request_is_a_span_with_its_phases():
    collector = traced(lambda server: complete(server, **{"x-request-id": "abc"}))
    assert collector.resources[0]["service.name"] == "octavo"
    spans = {span.name: span for span in collector.spans}
    assert sorted(spans) == ["decode", "llm_request", "prefill", "queue"]
    whole = spans["llm_request"]
    assert whole.kind == whole.SPAN_KIND_SERVER
    assert not whole.parent_span_id
    parts = [spans[name] for name in ("queue", "prefill", "decode")]
    assert {part.parent_span_id for part in parts} == {whole.span_id}
    assert {span.trace_id for span in parts} == {whole.trace_id}
    times = [whole.start_time_unix_nano]
    for part in parts:
        assert part.start_time_unix_nano == times[-1]
        times.append(part.end_time_unix_nano)
    assert times[-1] == whole.end_time_unix_nano
    assert times == sorted(times)
    assert parts[2].end_time_unix_nano - parts[2].start_time_unix_nano >= 4 * 0.01e9 * 0.9

    attributes = values(whole.attributes)
    assert attributes["gen_ai.request.id"] == "cmpl-abc"
    assert attributes["gen_ai.response.model"] == MODEL
    assert attributes["gen_ai.usage.prompt_tokens"] == 5
    assert attributes["gen_ai.usage.completion_tokens"] == 5
    assert attributes["gen_ai.request.max_tokens"] == 5
    assert attributes["gen_ai.request.temperature"] == 0.5
    assert attributes["gen_ai.request.n"] == 1
    assert attributes["gen_ai.response.finish_reasons"] == ["length"]
    names = ("time_in_queue", "time_in_model_prefill", "time_in_model_decode")
    total = sum(attributes[f"gen_ai.latency.{name}"] for name in names)
    assert total == pytest.approx(attributes["gen_ai.latency.e2e"])
    assert attributes["gen_ai.latency.time_to_first_token"] < attributes["gen_ai.latency.e2e"]


def test_a_request_joins_the_trace_of_its_caller_and_no_later_one_does():
    def ask(server: LiveServer) -> None:
        complete(server, traceparent=f"00-{TRACE}-{SPAN}-01")
        complete(server)
        complete(server, traceparent="nonsense")

    wholes = [span for span in traced(ask).spans if span.name == "llm_request"]
    assert [span.trace_id.hex() == TRACE for span in wholes] == [True, False, False]
    assert [span.parent_span_id.hex() for span in wholes] == [SPAN, "", ""]


def test_a_caller_that_does_not_record_is_not_recorded():
    assert not traced(lambda server: complete(server, traceparent=f"00-{TRACE}-{SPAN}-00")).spans


def test_every_prompt_of_a_request_has_a_span_and_so_have_chats():
    def ask(server: LiveServer) -> None:
        server.post("/v1/completions", prompt=["a", "b"], max_tokens=1)
        server.post("/v1/chat/completions", messages=[{"role": "user", "content": "a"}], max_tokens=1)
        server.post("/v1/completions", prompt="a", max_tokens=0)  # refused: nothing ran

    names = [span.name for span in traced(ask).spans]
    assert names.count("llm_request") == 3


def test_a_client_that_leaves_is_an_abort():
    def ask(server: LiveServer) -> None:
        body = {"prompt": "hello", "max_tokens": 200, "stream": True, "ignore_eos": True}
        with server.http.stream("POST", "/v1/completions", json=body) as answer:
            next(answer.iter_lines())

    [whole] = [span for span in traced(ask).spans if span.name == "llm_request"]
    attributes = values(whole.attributes)
    assert attributes["gen_ai.response.finish_reasons"] == ["abort"]
    assert 0 < attributes["gen_ai.usage.completion_tokens"] < 200


def test_a_failed_request_is_an_error():
    with collecting() as collector:
        tracer = tracing.Tracer(f"{collector.url}/v1/traces", "m")
        RequestTimer(Metrics("m", 100), 1, trace=tracer.start("id", SamplingParams())).fail()
        tracer.close()
    [span] = collector.spans
    assert span.status.code == span.status.STATUS_CODE_ERROR
