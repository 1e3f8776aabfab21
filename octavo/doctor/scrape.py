"""What a server's /metrics said at a moment, and what changed between two moments."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

Labels = tuple[tuple[str, str], ...]
_OF_PROCESSES = ("octavo_engine_process_", "octavo_api_process_")


@dataclass(frozen=True, slots=True)
class Histogram:
    """Cumulative counts up to each bound, the last of which is infinite."""

    bounds: tuple[float, ...]
    counts: tuple[float, ...]
    sum: float

    @property
    def count(self) -> float:
        """How many values there are."""
        return self.counts[-1] if self.counts else 0.0

    @property
    def mean(self) -> float:
        """Their mean; 0 of none."""
        return self.sum / self.count if self.count else 0.0

    def quantile(self, q: float) -> float:
        """Linear within a bucket, as Prometheus's histogram_quantile; 0 of no values."""
        if not self.count:
            return 0.0
        rank = q * self.count
        position = bisect_left(self.counts, rank)
        if math.isinf(self.bounds[position]):
            return self.bounds[position - 1] if position else 0.0
        lower = self.bounds[position - 1] if position else 0.0
        before = self.counts[position - 1] if position else 0.0
        inside = self.counts[position] - before
        part = (rank - before) / inside if inside else 1.0
        return lower + (self.bounds[position] - lower) * part


class Scrape:
    """Samples by name and labels; those that a server does not have count as 0."""

    def __init__(self, samples: dict[tuple[str, Labels], float]) -> None:
        self._samples = samples
        self._by_name: dict[str, list[tuple[dict[str, str], float]]] = {}
        for (name, labels), value in samples.items():
            self._by_name.setdefault(name, []).append((dict(labels), value))

    @classmethod
    def parse(cls, text: str) -> Scrape:
        """Raises ValueError for what is not in Prometheus's text format."""
        samples = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                samples[sample.name, tuple(sorted(sample.labels.items()))] = float(sample.value)
        return cls(samples)

    def __contains__(self, name: str) -> bool:
        return name in self._by_name

    def value(self, name: str, **labels: str) -> float:
        """The sum of the samples of that name with those labels."""
        return sum(value for found, value in self._by_name.get(name, ()) if labels.items() <= found.items())

    def labels(self, name: str) -> dict[str, str]:
        """The labels of the first sample of that name; none if there is none."""
        found = self._by_name.get(name)
        return found[0][0] if found else {}

    def by(self, label: str, name: str) -> dict[str, float]:
        """The samples of that name by the value of a label."""
        return {labels[label]: value for labels, value in self._by_name.get(name, ()) if label in labels}

    def histogram(self, name: str) -> Histogram:
        """A histogram, all label sets together."""
        counts: dict[float, float] = {}
        for labels, value in self._by_name.get(f"{name}_bucket", ()):
            bound = float(labels["le"])
            counts[bound] = counts.get(bound, 0.0) + value
        bounds = tuple(sorted(counts))
        return Histogram(bounds, tuple(counts[bound] for bound in bounds), self.value(f"{name}_sum"))

    def since(self, earlier: Scrape) -> Scrape:
        """What counters and histograms grew by; meaningless for gauges.

        Everything again when a counter is smaller than before, since the server started anew. Processes that
        it replaces have counters of their own, which may be smaller for that alone.
        """
        grown = {key: value - earlier._samples.get(key, 0.0) for key, value in self._samples.items()}
        counters = (
            key
            for key in grown
            if key[0].endswith(("_total", "_count", "_bucket")) and not key[0].startswith(_OF_PROCESSES)
        )
        return self if any(grown[key] < 0 for key in counters) else Scrape(grown)


def mean(values: Iterable[float]) -> float:
    """The mean; 0 of none."""
    values = list(values)
    return sum(values) / len(values) if values else 0.0
