"""Where traces are sent: OTLP over HTTP or gRPC (https://opentelemetry.io/docs/specs/otlp/).

The protocol is that of OTEL_EXPORTER_OTLP_TRACES_PROTOCOL or OTEL_EXPORTER_OTLP_PROTOCOL. Without them the
address says it: `grpc://`, and the port that collectors have for gRPC, 4317, mean gRPC.
"""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass
from typing import Any
from urllib.parse import SplitResult, urlsplit

_PATH = "/v1/traces"
_GRPC_PORT = 4317
_NO_PORT = -1
_PROTOCOL_VARIABLES = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_PROTOCOLS = ("grpc", "http/protobuf")
_FLAG = "otlp_traces_endpoint (--otlp-traces-endpoint)"


@dataclass(frozen=True, slots=True)
class Collector:
    """An address and whether it speaks gRPC."""

    endpoint: str
    grpc: bool

    def exporter(self) -> Any:
        """What sends spans there."""
        if self.grpc:
            from opentelemetry.exporter.otlp.proto.grpc import trace_exporter as grpc

            return grpc.OTLPSpanExporter(endpoint=self.endpoint)
        from opentelemetry.exporter.otlp.proto.http import trace_exporter as http

        return http.OTLPSpanExporter(endpoint=self.endpoint)


def collector(endpoint: str) -> Collector:
    """The collector at that address.

    Raises ValueError for what is no address of the protocol, for an unknown protocol, and where the
    packages are missing.
    """
    parts = urlsplit(endpoint)
    port = _port(parts)
    grpc = _speaks_grpc(parts.scheme, port)
    schemes = ("http", "https", "grpc") if grpc else ("http", "https")
    if parts.scheme not in schemes or not parts.hostname or port == _NO_PORT:
        raise ValueError(
            f"{_FLAG} must be an address such as http://localhost:4318{_PATH} or, for gRPC, "
            f"http://localhost:{_GRPC_PORT}; got {endpoint!r}"
        )
    extra = "otlp-grpc" if grpc else "otlp"
    if not _installed("opentelemetry.sdk", f"opentelemetry.exporter.otlp.proto.{'grpc' if grpc else 'http'}"):
        raise ValueError(
            f"{_FLAG} needs OpenTelemetry{' for gRPC' if grpc else ''}, which is not installed: "
            f"pip install 'octavo[{extra}]'"
        )
    if not grpc and parts.path in ("", "/"):
        endpoint = endpoint.rstrip("/") + _PATH
    return Collector(endpoint, grpc)


def _port(parts: SplitResult) -> int | None:
    try:
        return parts.port
    except ValueError:
        return _NO_PORT


def _speaks_grpc(scheme: str, port: int | None) -> bool:
    for variable in _PROTOCOL_VARIABLES:
        if protocol := os.environ.get(variable):
            if protocol not in _PROTOCOLS:
                raise ValueError(f"{variable} must be one of {', '.join(_PROTOCOLS)}; got {protocol!r}")
            return protocol == "grpc"
    return scheme == "grpc" or port == _GRPC_PORT


def _installed(*modules: str) -> bool:
    try:
        return all(importlib.util.find_spec(module) is not None for module in modules)
    except ModuleNotFoundError:
        return False
