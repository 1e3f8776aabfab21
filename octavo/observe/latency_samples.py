"""The latencies of a short time, themselves and not in buckets, for a chart."""

from __future__ import annotations

from itertools import accumulate

from octavo.observe.live_events import Latency

MAX_SAMPLES = 4096
"""Distinct values kept between two `take`s; those that come after are left out."""


class LatencySamples:
    """Collects values, each with how often it occurred, until they are taken."""

    __slots__ = ("_values",)

    def __init__(self) -> None:
        self._values: list[tuple[float, int]] = []

    def add(self, value: float, count: int = 1) -> None:
        """Take in a value, in seconds, that occurred `count` times."""
        if len(self._values) < MAX_SAMPLES:
            self._values.append((value, count))

    def take(self) -> Latency | None:
        """The percentiles (nearest rank) of what came since the last time; None when nothing did."""
        values, self._values = sorted(self._values), []
        if not values:
            return None
        ranks = list(accumulate(count for _, count in values))

        def percentile(share: float) -> float:
            wanted = share * ranks[-1]
            return next(value for (value, _), rank in zip(values, ranks, strict=True) if rank >= wanted)

        return Latency(ranks[-1], percentile(0.5), percentile(0.95))
