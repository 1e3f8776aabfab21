"""Look at a server for a while and say what is wrong with it."""

from __future__ import annotations

import time
import urllib.error
import urllib.request
from collections.abc import Callable

from octavo.doctor import errors, latency, memory, preemption, throughput
from octavo.doctor.finding import ORDER, Finding
from octavo.doctor.observation import Observation
from octavo.doctor.scrape import Scrape

CHAPTERS = (memory.check, latency.check, throughput.check, preemption.check, errors.check)
SCRAPES = 6
TIMEOUT_SECONDS = 10
MOST_BYTES = 32 << 20


class UnreachableError(Exception):
    """A server that does not answer as one should; one line says how."""


def diagnose(observed: Observation) -> list[Finding]:
    """All that the checks find, the worst first."""
    found = [finding for check in CHAPTERS for finding in check(observed)]
    return sorted(found, key=lambda finding: ORDER.index(finding.severity))


def observe(url: str, seconds: float, progress: Callable[[str], object]) -> Observation:
    """Scrape the server at `url` a few times over `seconds`, once if that is 0; raises UnreachableError."""
    scrapes, times = [], []
    for number in range(SCRAPES if seconds else 1):
        if number:
            time.sleep(seconds / (SCRAPES - 1))
        progress(f"watching {url}")
        scrapes.append(_scrape(url))
        times.append(time.monotonic())
    return Observation(scrapes, healthy=_get(f"{url}/health")[0] == 200, seconds=times[-1] - times[0])


def unreachable(reason: str) -> Finding:
    """The finding for a server that does not answer."""
    return Finding(
        name="no-answer",
        chapter="errors",
        severity="critical",
        evidence=reason,
        cause="no server listens there, it is still loading, or something in between blocks the way",
        change="start it, give its URL, or wait until it says that it is ready",
    )


def _scrape(url: str) -> Scrape:
    status, body = _get(f"{url}/metrics")
    if status != 200:
        raise UnreachableError(f"GET {url}/metrics answers {status}")
    try:
        scrape = Scrape.parse(body.decode())
    except ValueError as error:
        raise UnreachableError(f"GET {url}/metrics is not in Prometheus's text format: {error}") from error
    if "vllm:num_requests_running" not in scrape:
        raise UnreachableError(f"GET {url}/metrics has none of octavo's or vLLM's metrics")
    return scrape


def _get(url: str) -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as response:
            return int(response.status), response.read(MOST_BYTES)
    except urllib.error.HTTPError as error:
        return error.code, b""
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise UnreachableError(f"GET {url}: {reason}") from error
