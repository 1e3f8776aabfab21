"""Graceful drain: from the signal on, no new work; what is open finishes, within a bound."""

from __future__ import annotations

import asyncio

from starlette.types import ASGIApp, Receive, Scope, Send

from octavo.server.errors import APIError, error_response

ALWAYS_ANSWERED = ("/health", "/ping", "/load", "/metrics", "/version")
"""What probes and monitoring ask for: answered while draining, and not waited for."""
ENDLESS = ("/octavo/live",)
"""Streams that no client ends: closed when draining begins, and not waited for."""


class Drain:
    """Counts the requests that are open; once begun, tells when there are none left."""

    def __init__(self) -> None:
        self.begun = False
        self.num_open = 0
        self._none_open = asyncio.Event()

    def begin(self) -> None:
        """Refuse requests from now on."""
        self.begun = True
        self._tell()

    def enter(self) -> None:
        """A request begins."""
        self.num_open += 1

    def leave(self) -> None:
        """A request is over, its response sent."""
        self.num_open -= 1
        self._tell()

    async def finished(self, timeout: float) -> bool:
        """Wait, once begun, until no request is open; False when some are after `timeout` seconds."""
        try:
            await asyncio.wait_for(self._none_open.wait(), timeout)
        except TimeoutError:
            return False
        return True

    def _tell(self) -> None:
        if self.begun and not self.num_open:
            self._none_open.set()


class DrainMiddleware:
    """Counts requests for a `Drain`, and answers 503 to those that come after it has begun."""

    def __init__(self, app: ASGIApp, drain: Drain) -> None:
        self._app = app
        self._drain = drain

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "").removeprefix(scope.get("root_path", ""))
        if scope["type"] != "http" or path in ALWAYS_ANSWERED:
            await self._app(scope, receive, send)
            return
        if self._drain.begun:
            error = APIError(503, "the server is shutting down; send the request to another one")
            headers = {"Connection": "close", "Retry-After": "1"}
            await error_response(error, headers, path)(scope, receive, send)
            return
        if path in ENDLESS:
            await self._app(scope, receive, send)
            return
        self._drain.enter()
        try:
            await self._app(scope, receive, send)
        finally:
            self._drain.leave()
