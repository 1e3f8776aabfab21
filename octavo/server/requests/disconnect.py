"""Work for a client lasts only as long as the client stays."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from starlette.types import Receive

from octavo.server.errors import APIError, ClientDisconnectedError

T = TypeVar("T")


async def while_connected(receive: Receive, work: Awaitable[T]) -> T:
    """The result of `work`, which is cancelled when the client leaves: ClientDisconnectedError is raised.

    `receive` is the request's, its body read already: all that can come is the disconnect. When the server
    cancels the request, because its time to shut down is over, the client is told so with an APIError.
    """
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_disconnect(receive))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnectedError
        return working.result()
    except asyncio.CancelledError as error:
        raise APIError(503, "the server was shut down before the answer was complete") from error
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
