"""What the kernel says of processes other than the one that answers `GET /metrics`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from prometheus_client import ProcessCollector
from prometheus_client.metrics_core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from octavo.observe.api_processes import ApiProcesses


class ProcessSeries(Collector):
    """The series that Prometheus's clients have of their own process, of several, told apart by labels.

    One that is replaced keeps its labels; its counters begin anew, which is what `rate` expects.
    """

    def __init__(self, prefix: str, processes: Callable[[], Iterable[tuple[Mapping[str, str], int]]]) -> None:
        """`processes` gives the labels and the id of each that there is."""
        self._prefix = prefix
        self._processes = processes

    def collect(self) -> Iterable[Metric]:
        """The families."""
        families: dict[str, Metric] = {}
        for labels, pid in self._processes():
            for found in self._families(pid):
                family = families.setdefault(found.name, Metric(found.name, found.documentation, found.type))
                for sample in found.samples:
                    family.add_sample(sample.name, dict(labels), sample.value)
        return families.values()

    def _families(self, pid: int) -> Iterable[Metric]:
        # Without a registry, which would ask it for its own process as well.
        return ProcessCollector(self._prefix, pid=lambda: pid, registry=None).collect()


class ApiProcessCollector(Collector):
    """The API processes by their number, and how many died."""

    def __init__(self, processes: ApiProcesses, labels: Mapping[str, str]) -> None:
        """`labels` go on every series."""
        self._processes = processes
        self._labels = dict(labels)
        self._series = ProcessSeries("octavo_api", self._labelled)

    def collect(self) -> Iterable[Metric]:
        """The families."""
        yield from self._series.collect()
        waited = CounterMetricFamily(
            "octavo_api_process_cpu_wait_seconds",
            "Time that the event loop had something to do and no CPU to do it on.",
            labels=[*self._labels, "process"],
        )
        for labels, pid in self._labelled():
            if (seconds := _cpu_wait_seconds(pid)) is not None:
                waited.add_metric(list(labels.values()), seconds)
        yield waited
        restarts = CounterMetricFamily(
            "octavo_api_process_restarts",
            "API processes that replaced a dead one.",
            labels=list(self._labels),
        )
        restarts.add_metric(list(self._labels.values()), self._processes.num_restarts)
        yield restarts

    def _labelled(self) -> Iterable[tuple[Mapping[str, str], int]]:
        for number, pid in sorted(self._processes.pids.items()):
            yield {**self._labels, "process": str(number)}, pid


def _cpu_wait_seconds(pid: int) -> float | None:
    """Of a process's first thread, which the event loop has; None where the kernel does not say."""
    try:
        return int(Path(f"/proc/{pid}/task/{pid}/schedstat").read_text().split()[1]) / 1e9
    except (OSError, ValueError, IndexError):
        return None
