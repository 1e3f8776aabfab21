"""What octavo is compared with."""

from __future__ import annotations

from typing import Protocol

from octavo.bench.workload import Workload


class Peer(Protocol):
    """An engine that can be timed; octavo's own is one too."""

    name: str

    def tokens_per_second(self, workload: Workload) -> float:
        """Run the workload once. Raises ValueError when it does not run."""
        ...


class Unavailable(Exception):
    """The peer is not installed, or can not run this model; the message says which."""
