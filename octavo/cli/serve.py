"""`octavo serve`: the engine process and the HTTP server, from start to graceful end."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import errno
import os
import signal
import socket
import stat
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from octavo.cli.errors import CommandError
from octavo.cli.event_loop import loop_factory
from octavo.cli.flags import add_flags, config_of
from octavo.cli.model_argument import add_engine_flags, engine_config
from octavo.cli.settings_sources import add_config_flag, fill_in
from octavo.config import EngineConfig
from octavo.observe.logs import log_as_json, relay
from octavo.observe.otlp import collector
from octavo.server.config import ServerConfig
from octavo.server.middleware import load_middleware

if TYPE_CHECKING:
    from octavo.engine.async_engine import AsyncEngine

TERMINATED = 143


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The engine's flags and the server's."""
    add_engine_flags(parser)
    add_flags(parser, ServerConfig)
    add_config_flag(parser)


def run(arguments: argparse.Namespace) -> int:
    """Serve until a signal; returns 0 when it ended well."""
    flags = argparse.ArgumentParser(add_help=False)
    add_arguments(flags)
    fill_in(arguments, flags, os.environ)
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
    if server_config.otlp_traces_endpoint is not None:
        collector(server_config.otlp_traces_endpoint)
    for path in server_config.middleware:
        load_middleware(path)
    with (
        listener_of(server_config) as listener,
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
        where = f"{url}/v1, metrics at {url}/metrics"
        if server_config.uds is not None:
            where = f"{server_config.uds} ({scheme} on a Unix socket)"
        if server_config.tool_call_parser is not None:
            say("--tool-call-parser is taken, but tool calling is not served yet")

        def on_ready() -> None:
            say(f"serving {names} at {where}; ready after {time.monotonic() - started:.2f} s")

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


@contextlib.contextmanager
def listener_of(config: ServerConfig) -> Iterator[socket.socket]:
    """The socket that the settings ask for, closed and gone after the block."""
    if config.uds is None:
        with listen(config.host, config.port) as listener:
            yield listener
        return
    with listen_on_path(config.uds) as listener:
        try:
            yield listener
        finally:
            with contextlib.suppress(OSError):
                os.unlink(config.uds)


def listen_on_path(path: str) -> socket.socket:
    """A Unix socket at `path`, in place of one that nobody serves any more.

    Raises CommandError when something else is there or a server answers on it.
    """
    listener = socket.socket(socket.AF_UNIX)
    try:
        if os.path.lexists(path):
            if not stat.S_ISSOCK(os.lstat(path).st_mode):
                raise FileExistsError(errno.EEXIST, "there is something that is not a socket")
            with socket.socket(socket.AF_UNIX) as probe:
                if probe.connect_ex(path) == 0:
                    raise OSError(errno.EADDRINUSE, "another server answers there")
            os.unlink(path)
        listener.bind(path)
    except OSError as error:
        listener.close()
        reason = error.strerror or str(error)
        raise CommandError(f"cannot listen on {path} (--uds): {reason}") from error
    return listener


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
    if listener.family == socket.AF_UNIX:
        return "localhost"
    host, port = listener.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _nothing() -> None:
    pass
