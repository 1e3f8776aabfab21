"""A server watched for a while: its settings, its state, and what it did."""

from __future__ import annotations

from collections.abc import Sequence

from octavo.doctor.scrape import Histogram, Scrape, mean


class Observation:
    """Scrapes of one server, in order; the work looked at is that between them, or all since the start."""

    def __init__(self, scrapes: Sequence[Scrape], healthy: bool = True, seconds: float = 0.0) -> None:
        """At least one scrape; with one only, or when nothing happened between them, totals are looked at.

        `seconds` are those between the first and the last.
        """
        self.seconds = seconds
        self.healthy = healthy
        self.last = scrapes[-1]
        self._scrapes = scrapes
        recent = self.last.since(scrapes[0])
        self.is_recent = recent.histogram("vllm:iteration_tokens_total").count > 0
        self.work = recent if self.is_recent else self.last
        """Counters and histograms of the time looked at."""

    @property
    def period(self) -> str:
        """In words, the time that `work` is of."""
        return "while it was watched" if self.is_recent else "since it started"

    def gauge(self, name: str) -> float:
        """The mean over the scrapes."""
        return mean(scrape.value(name) for scrape in self._scrapes)

    @property
    def running(self) -> float:
        """Sequences that run."""
        return self.gauge("vllm:num_requests_running")

    @property
    def waiting(self) -> float:
        """Sequences that wait."""
        return self.gauge("vllm:num_requests_waiting")

    @property
    def kv_usage(self) -> float:
        """Share of the KV cache in use."""
        return self.gauge("vllm:kv_cache_usage_perc")

    @property
    def finished(self) -> float:
        """Requests that ended."""
        return self.work.value("vllm:request_success_total")

    def histogram(self, name: str) -> Histogram:
        """A histogram of vLLM's, without the prefix."""
        return self.work.histogram(f"vllm:{name}")

    def setting(self, name: str) -> str | None:
        """A setting as text, from the metrics whose labels are settings; None if not set or not told."""
        for info in ("octavo_engine_config_info", "vllm:cache_config_info", "octavo_build_info"):
            value = self.last.labels(info).get(name)
            if value is not None:
                return None if value in ("None", "") else value
        return None

    def number(self, name: str) -> float | None:
        """A setting that is a number."""
        value = self.setting(name)
        try:
            return None if value is None else float(value)
        except ValueError:
            return None
