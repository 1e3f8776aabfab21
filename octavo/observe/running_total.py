"""Counters of what another process counts."""

from __future__ import annotations

from prometheus_client import Counter


class RunningTotal:
    """A counter fed with totals that begin again at 0 when the engine process is replaced."""

    def __init__(self, counter: Counter) -> None:
        self._counter = counter
        self._seen = 0

    def update(self, total: int) -> None:
        """Add what has come since the last total; a smaller total is a new process's."""
        grown = total - self._seen if total >= self._seen else total
        self._seen = total
        if grown:
            self._counter.inc(grown)
