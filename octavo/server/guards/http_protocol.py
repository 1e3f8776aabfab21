"""HTTP/1.1 on one connection, with a bound on how slowly a request may arrive and on how many there are."""

from __future__ import annotations

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from octavo.server.errors import APIError, error_response
from octavo.server.guards.connection_limit import SurplusConnection

SURPLUS_SECONDS = 5.0
"""How long a connection may take to say what it wants where there are too many."""


class BoundedProtocol(H11Protocol):
    """uvicorn's protocol, which bounds only how long a connection may be idle between two requests.

    A request, headers and body, has `read_timeout` seconds from its first byte, the first one of a connection
    from when that was made; then it is answered with 408, and the connection closed. A connection beyond
    `max_connections` has one request, which is refused, and `SURPLUS_SECONDS` for that.
    """

    read_timeout = 60.0
    max_connections = 4096

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._arriving: asyncio.TimerHandle | None = None
        self._heard = False
        """Whether anything ever came."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has connected."""
        super().connection_made(transport)
        if len(self.connections) > self.max_connections:
            self.app = SurplusConnection(self.app, self.max_connections)
            self.read_timeout = min(self.read_timeout, SURPLUS_SECONDS)
        self._wait()

    def data_received(self, data: bytes) -> None:
        """A part of a request has come."""
        self._heard = True
        super().data_received(data)
        if self.conn.their_state in (h11.IDLE, h11.SEND_BODY):
            self._wait()
        else:
            self._stop_waiting()

    def on_response_complete(self) -> None:
        """A response is out; what follows it may be here in part."""
        super().on_response_complete()
        if self.conn.their_state is h11.IDLE and self.conn.trailing_data[0]:
            self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone."""
        self._stop_waiting()
        super().connection_lost(exc)

    def _wait(self) -> None:
        if self._arriving is None and not self.transport.is_closing():
            self._arriving = self.loop.call_later(self.read_timeout, self._give_up)

    def _stop_waiting(self) -> None:
        if self._arriving is not None:
            self._arriving.cancel()
            self._arriving = None

    def _give_up(self) -> None:
        self._arriving = None
        if self.transport.is_closing():
            return
        has_request = self.conn.their_state is h11.SEND_BODY
        if self._heard and self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            error = APIError(
                408, f"the request had not arrived after {self.read_timeout:g} s (--request-read-timeout)"
            )
            path = self.scope["path"].removeprefix(self.root_path) if has_request else ""
            self._answer(error_response(error, {"Connection": "close"}, path))
        self.transport.close()
        if has_request:
            # Whoever reads the body is told that the client has gone.
            self.cycle.disconnected = True
            self.cycle.message_event.set()

    def _answer(self, response: Any) -> None:
        for event in (
            h11.Response(status_code=response.status_code, headers=response.raw_headers),
            h11.Data(data=response.body),
            h11.EndOfMessage(),
        ):
            self.transport.write(self.conn.send(event))


def bounded_protocol(read_timeout: float, max_connections: int) -> type[BoundedProtocol]:
    """The protocol with those bounds, in seconds and in connections of this process."""
    bounds = {"read_timeout": read_timeout, "max_connections": max_connections}
    return type("BoundedProtocol", (BoundedProtocol,), bounds)
