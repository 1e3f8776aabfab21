"""The HTTP server that runs the application until a signal ends it."""

from __future__ import annotations

import copy
import socket
from collections.abc import Callable
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.config import LOGGING_CONFIG

from octavo.observe.logs import log_as_json
from octavo.server.config import ServerConfig


class HTTPServer(uvicorn.Server):
    """uvicorn, which says when it answers. The first signal lets open requests finish, a second does not.

    `on_stop` ends, before it waits for open requests, those that would never finish.
    """

    def __init__(
        self, config: uvicorn.Config, on_ready: Callable[[], None], on_stop: Callable[[], None]
    ) -> None:
        super().__init__(config)
        self._on_ready = on_ready
        self._on_stop = on_stop

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to accept connections."""
        await super().startup(sockets)
        self._on_ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop accepting connections and wait for open requests."""
        self._on_stop()
        await super().shutdown(sockets)


def make_server(app: FastAPI, config: ServerConfig, on_ready: Callable[[], None]) -> HTTPServer:
    """The server for `app`; its `serve(sockets=[...])` returns after SIGTERM or Ctrl-C."""
    log_config: dict[str, Any] | None = None
    if config.log_format == "json":
        log_as_json(config.uvicorn_log_level)
    else:
        log_config = copy.deepcopy(LOGGING_CONFIG)
        log_config["loggers"]["octavo"] = {"handlers": ["default"], "level": "INFO", "propagate": False}
    settings = uvicorn.Config(
        app,
        log_config=log_config,
        log_level=config.uvicorn_log_level,
        root_path=config.root_path,
        access_log=not config.disable_log_requests,
        timeout_graceful_shutdown=config.shutdown_timeout,
        ssl_keyfile=config.ssl_keyfile,
        ssl_certfile=config.ssl_certfile,
    )
    return HTTPServer(settings, on_ready, app.state.live_feed.close)
