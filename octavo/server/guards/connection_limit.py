"""What is said on a connection that is one too many."""

from __future__ import annotations

import resource

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from octavo.server.errors import APIError, error_response
from octavo.server.guards.drain import ALWAYS_ANSWERED

_OTHER_FILES = 128
"""Descriptors for all that is not a client's connection: the model, the engine, the log, listeners."""


def connections_that_fit(wanted: int) -> int:
    """`wanted`, or as many as this process may have files open, of which it first allows itself the most."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited, enough = resource.RLIM_INFINITY, wanted + _OTHER_FILES
    if soft != unlimited and soft < enough:
        soft = enough if hard == unlimited else min(hard, enough)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return wanted if soft == unlimited else max(1, min(wanted, soft - _OTHER_FILES))


class SurplusConnection:
    """The application of a connection beyond the bound: 503 to its request, and the end of the connection.

    Probes and monitoring are answered, and then it ends as well.
    """

    def __init__(self, app: ASGIApp, most: int) -> None:
        self._app = app
        self._most = most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        if path in ALWAYS_ANSWERED:
            await self._app(scope, receive, _closing(send))
            return
        error = APIError(503, f"this server has {self._most} connections open (--max-connections)")
        headers = {"Connection": "close", "Retry-After": "1"}
        await error_response(error, headers, path)(scope, receive, send)


def _closing(send: Send) -> Send:
    async def closing(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", ()), (b"connection", b"close")]}
        await send(message)

    return closing
