"""Holds an engine before its next step, so that a test decides when steps run, not the machine's speed."""

from __future__ import annotations

import asyncio
import math
import threading

SECONDS = 60
"""Longer than steps take on any machine: only a test that fails waits for so long."""


class StepGate:
    """Open at first. `hold`, `allow` and `release` are for the event loop, `wait` for another thread."""

    def __init__(self) -> None:
        self._left = math.inf
        self._changed = asyncio.Event()
        self._held = threading.Event()

    def hold(self) -> None:
        """Let no step run from now on."""
        self._left = 0

    def allow(self, count: int) -> None:
        """Let `count` more steps run."""
        self._left += count
        self._held.clear()
        self._changed.set()

    def release(self) -> None:
        """Let all steps run."""
        self._left = math.inf
        self._changed.set()

    def wait(self) -> None:
        """Until the steps that are allowed have run, and one more would."""
        assert self._held.wait(SECONDS), "the engine had less to do"

    async def enter(self) -> None:
        """What an engine waits for before a step."""
        while not self._left:
            self._changed.clear()
            self._held.set()
            await self._changed.wait()
        self._left -= 1
