"""Run the application on a listening socket until a signal ends it."""

from __future__ import annotations

import copy
import socket
from collections.abc import Callable

import uvicorn
from fastapi import FastAPI
from uvicorn.config import LOGGING_CONFIG

from octavo.server.config import ServerConfig


class HTTPServer(uvicorn.Server):
    """uvicorn, which says when it answers. The first signal lets open requests finish, a second does not."""

    def __init__(self, config: uvicorn.Config, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_ready = on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to accept connections."""
        await super().startup(sockets)
        self._on_ready()


async def run_server(
    app: FastAPI, config: ServerConfig, listener: socket.socket, on_ready: Callable[[], None]
) -> None:
    """Answer on `listener`; returns after SIGTERM or Ctrl-C, when requests have finished or were cut off."""
    log_config = copy.deepcopy(LOGGING_CONFIG)
    log_config["loggers"]["octavo"] = {"handlers": ["default"], "level": "INFO", "propagate": False}
    settings = uvicorn.Config(
        app,
        log_config=log_config,
        log_level=config.uvicorn_log_level,
        access_log=not config.disable_log_requests,
        timeout_graceful_shutdown=config.shutdown_timeout,
        ssl_keyfile=config.ssl_keyfile,
        ssl_certfile=config.ssl_certfile,
    )
    await HTTPServer(settings, on_ready).serve(sockets=[listener])
