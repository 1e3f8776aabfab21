"""`octavo serve`: the engine process and the HTTP server, from start to graceful end."""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import os
import signal
import socket
import time
from typing import TYPE_CHECKING

from octavo.cli.errors import CommandError
from octavo.cli.listener import listeners_of
from octavo.config import EngineConfig
from octavo.flags.from_config import add_flags, config_of
from octavo.flags.model_argument import add_engine_flags, engine_config
from octavo.flags.settings_sources import add_config_flag, fill_in
from octavo.flags.vllm_flags import without_effect
from octavo.logs import log_as_json, relay
from octavo.machine.event_loop import loop_factory
from octavo.observe.otlp import collector
from octavo.server.config import ServerConfig
from octavo.server.guards.middleware import load_middleware

if TYPE_CHECKING:
    from octavo.frontend.async_engine import AsyncEngine

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
    if idle := without_effect(arguments):
        say(f"{', '.join(idle)}: no effect here")
    with (
        listeners_of(server_config) as listeners,
        asyncio.Runner(loop_factory=loop_factory()) as runner,
    ):
        several = server_config.api_server_count > 1
        try:
            runner.run((serve_in_processes if several else serve)(config, server_config, listeners))
        except asyncio.CancelledError:
            return TERMINATED
    return 0


async def serve(config: EngineConfig, server_config: ServerConfig, listeners: list[socket.socket]) -> None:
    """Start the engine and answer on `listeners` until SIGTERM or Ctrl-C, which open requests may outlast.

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
        on_ready = lambda: say_ready(config, server_config, listeners[0], started)  # noqa: E731
        await make_server(app, server_config, on_ready).serve(sockets=listeners)
    finally:
        await engine.stop()


async def serve_in_processes(
    config: EngineConfig, server_config: ServerConfig, listeners: list[socket.socket]
) -> None:
    """The same with several API processes, of which this one is the parent."""
    from octavo.frontend.supervisor import EngineDeadError
    from octavo.model.load import resolve_model
    from octavo.server.processes.parent import ApiProcessError, Parent

    started = time.monotonic()
    loop, serving = asyncio.get_running_loop(), asyncio.current_task()
    assert serving is not None
    loop.add_signal_handler(signal.SIGTERM, serving.cancel)
    say(f"loading {config.model or 'the demo model'}")
    path = await asyncio.to_thread(resolve_model, config.model)
    parent = Parent(dataclasses.replace(config, model=str(path)), server_config, listeners)

    def on_ready() -> None:
        for signal_number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(signal_number, parent.stop)
        say_ready(config, server_config, listeners[0], started)

    try:
        await parent.run(config.model, on_ready)
    except (ApiProcessError, EngineDeadError) as error:
        raise CommandError(str(error)) from error


def say_ready(
    config: EngineConfig, server_config: ServerConfig, listener: socket.socket, started: float
) -> None:
    """Say where requests are answered, and how long it took since `started`."""
    if server_config.tool_call_parser is not None:
        say("--tool-call-parser is taken, but tool calling is not served yet")
    names = " or ".join(server_config.model_names(config.model))
    scheme = "https" if server_config.ssl_certfile else "http"
    url = f"{scheme}://{_address(listener)}"
    where = f"{url}/v1, metrics at {url}/metrics"
    if server_config.uds is not None:
        where = f"{server_config.uds} ({scheme} on a Unix socket)"
    if server_config.api_server_count > 1:
        where += f", {server_config.api_server_count} API processes"
    say(f"serving {names} at {where}; ready after {time.monotonic() - started:.2f} s")


async def start_engine(config: EngineConfig) -> AsyncEngine:
    """An engine that is ready; the web framework is imported while its process loads the model."""
    from octavo.frontend.async_engine import AsyncEngine, EngineDeadError

    starting = asyncio.create_task(AsyncEngine.start(config))
    importing = asyncio.create_task(asyncio.to_thread(_import_server))
    try:
        engine = await starting
        await importing
    except EngineDeadError as error:
        raise CommandError(str(error)) from error
    return engine


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
