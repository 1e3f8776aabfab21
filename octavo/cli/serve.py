"""`octavo serve`: the engine process and the HTTP server, from start to graceful end."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import socket
import time
from typing import TYPE_CHECKING

from octavo.cli.errors import CommandError
from octavo.cli.event_loop import loop_factory
from octavo.cli.flags import add_flags, config_of
from octavo.cli.model_argument import add_engine_flags, engine_config
from octavo.config import EngineConfig
from octavo.observe.logs import log_as_json, relay
from octavo.server.config import ServerConfig

if TYPE_CHECKING:
    from octavo.engine.async_engine import AsyncEngine

TERMINATED = 143


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The engine's flags and the server's."""
    add_engine_flags(parser)
    add_flags(parser, ServerConfig)


def run(arguments: argparse.Namespace) -> int:
    """Serve until a signal; returns 0 when it ended well."""
    config = engine_config(arguments)
    server_config = config_of(ServerConfig, arguments)
    if key := os.environ.get("OCTAVO_API_KEY"):
        server_config.api_key = (*server_config.api_key, key)
    if getattr(arguments, "disable_log_stats", False):
        server_config.log_stats_interval = 0.0
    if server_config.log_format == "json":
        log_as_json(server_config.uvicorn_log_level)
    server_config.read_chat_template()
    server_config.check_certificate()
    with (
        listen(server_config.host, server_config.port) as listener,
        asyncio.Runner(loop_factory=loop_factory()) as runner,
    ):
        try:
            runner.run(serve(config, server_config, listener))
        except asyncio.CancelledError:
            return TERMINATED
    return 0


async def serve(config: EngineConfig, server_config: ServerConfig, listener: socket.socket) -> None:
    """Start the engine and answer on `listener` until SIGTERM or Ctrl-C, which open requests may outlast.

    Raises ValueError for a model or setting that can not be, CommandError when the engine does not start.
    """
    started = time.monotonic()
    loop, serving = asyncio.get_running_loop(), asyncio.current_task()
    assert serving is not None
    loop.add_signal_handler(signal.SIGTERM, serving.cancel)
    say(f"loading {config.model or 'the demo model'}")
    engine = await start_engine(config)
    try:
        from octavo.server.app import create_app
        from octavo.server.run import make_server

        app = create_app(engine, server_config, config.model)
        # From here on the HTTP server has its own handlers, and signals again what it was ended by.
        for signal_number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(signal_number, _nothing)
        names = " or ".join(app.state.serving.model_names)
        scheme = "https" if server_config.ssl_certfile else "http"
        url = f"{scheme}://{_address(listener)}"

        def on_ready() -> None:
            seconds = time.monotonic() - started
            say(f"serving {names} at {url}/v1, metrics at {url}/metrics; ready after {seconds:.2f} s")

        await make_server(app, server_config, on_ready).serve(sockets=[listener])
    finally:
        await engine.stop()


async def start_engine(config: EngineConfig) -> AsyncEngine:
    """An engine that is ready; the web framework is imported while its process loads the model."""
    from octavo.engine.async_engine import AsyncEngine, EngineDeadError

    starting = asyncio.create_task(AsyncEngine.start(config))
    importing = asyncio.create_task(asyncio.to_thread(_import_server))
    try:
        engine = await starting
        await importing
    except EngineDeadError as error:
        raise CommandError(str(error)) from error
    return engine


def listen(host: str, port: int) -> socket.socket:
    """A socket bound to the address, which does not accept yet; raises CommandError when it is taken."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        reason = error.strerror or str(error)
        raise CommandError(f"cannot listen on {host} port {port} (--host, --port): {reason}") from error
    return listener


def say(line: str) -> None:
    """A line for whoever started the server."""
    relay("octavo.serve", f"octavo: {line}\n")


def _import_server() -> None:
    import octavo.server.app
    import octavo.server.run  # noqa: F401


def _address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _nothing() -> None:
    pass
