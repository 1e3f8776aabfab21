"""The processes that answer HTTP, as their metrics tell them apart."""

from __future__ import annotations

import os
from dataclasses import dataclass, field


@dataclass(slots=True)
class ApiProcesses:
    """The processes that answer HTTP: their ids by number, and how many have replaced a dead one."""

    pids: dict[int, int] = field(default_factory=lambda: {0: os.getpid()})
    num_restarts: int = 0
