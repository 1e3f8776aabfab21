"""Where traces go: the protocol of an address, and a collector that speaks gRPC."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
from support.live_server import live_server

from octavo.cli.main import main
from octavo.observe.otlp import Collector, collector
from octavo.server.config import ServerConfig


@pytest.fixture(autouse=True)
def no_protocol(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", raising=False)
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_PROTOCOL", raising=False)


@contextmanager
def grpc_collector() -> Iterator[tuple[str, list[Any]]]:
    """An address without its scheme, and the spans that are sent there."""
    grpc = pytest.importorskip("grpc")
    service = pytest.importorskip("opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc")
    messages = pytest.importorskip("opentelemetry.proto.collector.trace.v1.trace_service_pb2")
    spans: list[Any] = []

    class Servicer(service.TraceServiceServicer):
        def Export(self, request: Any, _: Any) -> Any:
            for resource in request.resource_spans:
                for scope in resource.scope_spans:
                    spans.extend(scope.spans)
            return messages.ExportTraceServiceResponse()

    server = grpc.server(ThreadPoolExecutor(2))
    service.add_TraceServiceServicer_to_server(Servicer(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}", spans
    finally:
        server.stop(None).wait()


@pytest.mark.parametrize("scheme", ["grpc", "http"])
def test_a_collector_that_speaks_grpc(scheme: str, monkeypatch: pytest.MonkeyPatch):
    """As vLLM's users have it: `grpc://` and the variable that says there is no TLS."""
    pytest.importorskip("opentelemetry.exporter.otlp.proto.grpc")
    if scheme == "grpc":
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_INSECURE", "true")
    else:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "grpc")
    with grpc_collector() as (address, spans):
        with live_server(ServerConfig(otlp_traces_endpoint=f"{scheme}://{address}")) as server:
            server.post("/v1/completions", prompt="hello", max_tokens=3)
        assert sorted(span.name for span in spans) == ["decode", "llm_request", "prefill", "queue"]


@pytest.mark.parametrize(
    ("endpoint", "variables", "expected"),
    [
        ("http://c:4318", {}, Collector("http://c:4318/v1/traces", False)),
        ("https://c/v1/traces", {}, Collector("https://c/v1/traces", False)),
        ("http://c:4317", {}, Collector("http://c:4317", True)),
        ("grpc://c:9000", {}, Collector("grpc://c:9000", True)),
        ("http://c:9000", {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, Collector("http://c:9000", True)),
        (
            "http://c:4317",
            {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf"},
            Collector("http://c:4317/v1/traces", False),
        ),
    ],
)
def test_the_protocol_of_an_address(
    endpoint: str, variables: dict[str, str], expected: Collector, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert collector(endpoint) == expected


@pytest.mark.parametrize("endpoint", ["ftp://localhost:4317", "localhost:4318", "http://", "http://c:port"])
def test_no_address(endpoint: str, capsys: pytest.CaptureFixture[str]):
    assert main(["serve", "--otlp-traces-endpoint", endpoint]) == 1
    assert "must be an address such as http://localhost:4318/v1/traces" in capsys.readouterr().err


def test_grpc_is_not_spoken_over_http(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")
    assert main(["serve", "--otlp-traces-endpoint", "grpc://localhost:4317"]) == 1
    assert "must be an address such as" in capsys.readouterr().err


def test_an_unknown_protocol(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/json")
    assert main(["serve", "--otlp-traces-endpoint", "http://localhost:4318"]) == 1
    expected = "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL must be one of grpc, http/protobuf; got 'http/json'"
    assert expected in capsys.readouterr().err


@pytest.mark.parametrize(("port", "extra"), [(4318, "otlp"), (4317, "otlp-grpc")])
def test_without_the_packages_the_server_does_not_start(
    port: int, extra: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["serve", "--otlp-traces-endpoint", f"http://localhost:{port}"]) == 1
    assert f"pip install 'octavo[{extra}]'" in capsys.readouterr().err
