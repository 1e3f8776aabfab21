"""Who waits for the engine to describe what it holds."""

from __future__ import annotations

import asyncio
from collections import deque

from octavo.engine.messages import EngineState


class Descriptions:
    """The engine answers in the order in which it was asked."""

    def __init__(self) -> None:
        self._waiting: deque[asyncio.Future[EngineState | None]] = deque()

    def __len__(self) -> int:
        """How many wait."""
        return len(self._waiting)

    def ask(self) -> asyncio.Future[EngineState | None]:
        """What will hold the answer to the next request for one."""
        state: asyncio.Future[EngineState | None] = asyncio.get_running_loop().create_future()
        self._waiting.append(state)
        return state

    def take(self, state: EngineState) -> None:
        """An answer has come."""
        if self._waiting:
            self._tell(state)

    def give_up(self) -> None:
        """Nobody will describe anything to those who wait: they get None."""
        while self._waiting:
            self._tell(None)

    def _tell(self, state: EngineState | None) -> None:
        waiting = self._waiting.popleft()
        if not waiting.done():  # its reader may have gone
            waiting.set_result(state)
