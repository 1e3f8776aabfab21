"""Where the stream of a request waits for news."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from octavo.frontend.request_state import RequestState


class Mailbox:
    """Where a stream waits for news of its request. Holds no outputs: they are made when they are taken."""

    __slots__ = ("error", "on_first_token", "state", "waiter")

    def __init__(self, state: RequestState, on_first_token: Callable[[], None] | None) -> None:
        self.state = state
        self.on_first_token = on_first_token
        self.error: str | None = None
        self.waiter: asyncio.Future[None] | None = None

    async def wait(self) -> None:
        """Return when there may be news."""
        self.waiter = asyncio.get_running_loop().create_future()
        await self.waiter

    def wake(self) -> None:
        """Let the stream look again."""
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)
