"""The HTTP server that runs the application until a signal ends it."""

from __future__ import annotations

import asyncio
import copy
import logging
import socket
from collections.abc import Callable
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.config import LOGGING_CONFIG

from octavo.logs import log_as_json
from octavo.server.config import ServerConfig
from octavo.server.guards.connection_limit import connections_that_fit
from octavo.server.guards.drain import Drain
from octavo.server.guards.http_protocol import bounded_protocol
from octavo.server.serving import Serving

_log = logging.getLogger(__name__)


class HTTPServer(uvicorn.Server):
    """uvicorn, which says when it answers. The first signal lets open requests finish, a second does not.

    While they finish it goes on listening, so that probes and clients are told: see `Drain`. `on_stop` ends,
    before it waits for open requests, those that would never finish.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        on_ready: Callable[[], None],
        on_stop: Callable[[], None],
        drain: Drain,
        drain_timeout: float,
    ) -> None:
        super().__init__(config)
        self._on_ready = on_ready
        self._on_stop = on_stop
        self._drain = drain
        self._drain_timeout = drain_timeout
        self._loop: asyncio.AbstractEventLoop
        self._draining: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to accept connections."""
        await super().startup(sockets)
        self._loop = asyncio.get_running_loop()
        self._on_ready()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Take a signal; may interrupt anything."""
        if self._drain.begun or not self.started:
            self.should_exit = self.force_exit = True
        else:
            self._drain.begun = True
            self._loop.call_soon_threadsafe(self.drain)

    def drain(self) -> None:
        """Refuse new requests, and end when those that are open have finished or their time is over."""
        self._drain.begin()
        self._on_stop()
        if self._draining is None:
            self._draining = self._loop.create_task(self._exit_when_drained())

    async def _exit_when_drained(self) -> None:
        _log.info(
            "shutting down; %d requests have up to %g s to finish", self._drain.num_open, self._drain_timeout
        )
        if not await self._drain.finished(self._drain_timeout):
            _log.warning("%d requests are cut off (--shutdown-timeout)", self._drain.num_open)
            self.config.timeout_graceful_shutdown = 0
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop accepting connections and wait for open requests."""
        self._on_stop()
        await super().shutdown(sockets)


def text_logging() -> dict[str, Any]:
    """The configuration of logs for people: uvicorn's, and ours like it."""
    config = copy.deepcopy(LOGGING_CONFIG)
    config["loggers"]["octavo"] = {"handlers": ["default"], "level": "INFO", "propagate": False}
    return config


def most_connections(wanted: int) -> int:
    """How many connections there can be; says so where that is less than `wanted`."""
    most = connections_that_fit(wanted)
    if most < wanted:
        _log.warning(
            "at most %d connections at a time, not %d (--max-connections): the limit on open files "
            "(ulimit -n) allows no more",
            most,
            wanted,
        )
    return most


def make_server(app: FastAPI, config: ServerConfig, on_ready: Callable[[], None]) -> HTTPServer:
    """The server for `app`; its `serve(sockets=[...])` returns after SIGTERM or Ctrl-C."""
    if config.log_format == "json":
        log_as_json(config.uvicorn_log_level)
    settings = uvicorn.Config(
        app,
        # The other parser that uvicorn knows sets no bound on the headers of a request.
        http=bounded_protocol(config.request_read_timeout, most_connections(config.max_connections)),
        timeout_keep_alive=config.timeout_keep_alive,
        h11_max_incomplete_event_size=config.h11_max_incomplete_event_size,
        log_config=None if config.log_format == "json" else text_logging(),
        log_level=config.uvicorn_log_level,
        root_path=config.root_path,
        access_log=not config.disable_log_requests,
        timeout_graceful_shutdown=config.shutdown_timeout,
        ssl_keyfile=config.ssl_keyfile,
        ssl_certfile=config.ssl_certfile,
        ssl_ca_certs=config.ssl_ca_certs,
        ssl_cert_reqs=config.ssl_cert_reqs,
    )
    serving = app.state.serving
    assert isinstance(serving, Serving)
    return HTTPServer(settings, on_ready, serving.state.close, serving.drain, float(config.shutdown_timeout))
