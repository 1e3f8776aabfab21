"""Requests that do not end well."""

from __future__ import annotations

from collections.abc import Iterator

from octavo.doctor.finding import Finding
from octavo.doctor.observation import Observation

MANY_ERRORS = 0.01
MANY_ABORTS = 0.2
ENOUGH_REQUESTS = 10


def check(observed: Observation) -> Iterator[Finding]:
    """Failures, and clients that leave."""
    finished = observed.finished
    errors = observed.work.value("vllm:request_success_total", finished_reason="error")
    aborts = observed.work.value("vllm:request_success_total", finished_reason="abort")
    if errors > MANY_ERRORS * finished:
        yield Finding(
            name="errors",
            chapter="errors",
            severity="critical",
            evidence=f"{errors:.0f} of {finished:.0f} requests failed {observed.period}",
            cause="the engine could not finish them",
            change="see the server's log; with --log-format json its lines have the request's id",
        )
    if finished >= ENOUGH_REQUESTS and aborts > MANY_ABORTS * finished:
        yield Finding(
            name="aborts",
            chapter="errors",
            severity="warning",
            evidence=f"clients gave up {aborts:.0f} of {finished:.0f} requests {observed.period}",
            cause="answers take longer than clients wait",
            change="see what makes latency high here, or raise the clients' time-outs",
        )
