"""A Prometheus histogram that takes many equal values at once."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import accumulate

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import HistogramMetricFamily, Metric
from prometheus_client.registry import Collector


class Histogram(Collector):
    """Counts of values up to each of `bounds`, ascending, and above the last.

    It differs from the client library's histogram in three ways. It takes a weight, because sequences of one
    batch have the same gap between tokens. It finds the bucket by bisection. It has no lock, because one
    thread observes and collects.
    """

    def __init__(
        self,
        name: str,
        help: str,
        labels: Mapping[str, str],
        bounds: Sequence[float],
        registry: CollectorRegistry,
    ) -> None:
        self._name = name
        self._help = help
        self._labels = dict(labels)
        self._bounds = tuple(bounds)
        names = [str(float(bound)) for bound in self._bounds]
        self._bucket_names = [*names, "+Inf"]
        self._counts = [0] * (len(self._bounds) + 1)
        self._sum = 0.0
        self.listener: Callable[[float, int], None] | None = None
        """Told each value and its count, for whoever needs the values themselves for a while."""
        registry.register(self)

    def observe(self, value: float, count: int = 1) -> None:
        """Count `value`, `count` times."""
        self._counts[bisect_left(self._bounds, value)] += count
        self._sum += value * count
        if self.listener is not None:
            self.listener(value, count)

    def collect(self) -> Iterable[Metric]:
        """The one family of this histogram."""
        family = HistogramMetricFamily(self._name, self._help, labels=list(self._labels))
        buckets = list(zip(self._bucket_names, map(float, accumulate(self._counts)), strict=True))
        family.add_metric(list(self._labels.values()), buckets, self._sum)
        yield family

    def describe(self) -> Iterable[Metric]:
        """What `collect` gives, so that the registry refuses a second one of the name."""
        return self.collect()
