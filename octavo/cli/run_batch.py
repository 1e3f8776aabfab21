"""`octavo run-batch`: the requests of an OpenAI batch file, answered into another file."""

from __future__ import annotations

import argparse
import asyncio
import time
from pathlib import Path
from typing import BinaryIO

from octavo.cli.errors import CommandError
from octavo.cli.serve import say, start_engine
from octavo.config import EngineConfig
from octavo.flags.from_config import add_flags, config_of
from octavo.flags.model_argument import add_engine_flags, engine_config
from octavo.machine.event_loop import loop_factory
from octavo.server.config import ServerConfig

_SERVER_ONLY = (
    "host",
    "port",
    "uds",
    "root_path",
    "api_server_count",
    "middleware",
    "disable_fastapi_docs",
    "enable_request_id_headers",
    "shutdown_timeout",
    "h11_max_incomplete_event_size",
    "h11_max_header_count",
    "max_connections",
    "request_read_timeout",
    "timeout_keep_alive",
    "max_stored_responses",
    "max_waiting",
    "enable_force_include_usage",
    "api_key",
    "allowed_origins",
    "allowed_methods",
    "allowed_headers",
    "allow_credentials",
    "ssl_keyfile",
    "ssl_certfile",
    "ssl_ca_certs",
    "ssl_cert_reqs",
    "disable_page",
    "page_show_text",
    "uvicorn_log_level",
    "log_stats_interval",
    "log_format",
    "disable_log_requests",
    "enable_log_requests",
    "max_log_len",
    "otlp_traces_endpoint",
)
_SECONDS_BETWEEN_LINES = 10.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The two files, the engine's flags, and those of the server that are about requests."""
    files = parser.add_argument_group("Files")
    files.add_argument("-i", "--input-file", required=True, metavar="FILE", help="requests, a JSON line each")
    files.add_argument("-o", "--output-file", required=True, metavar="FILE", help="where the answers go")
    add_engine_flags(parser)
    add_flags(parser, ServerConfig, skip=_SERVER_ONLY)


def run(arguments: argparse.Namespace) -> int:
    """Answer every line; returns 0 when all were read, whatever their answers."""
    config = engine_config(arguments)
    server_config = config_of(ServerConfig, arguments)
    source, target = Path(arguments.input_file), Path(arguments.output_file)
    if target.exists() and source.exists() and target.samefile(source):
        raise CommandError("output-file (-o) is the input file (-i)")
    try:
        with (
            source.open("rb") as lines,
            target.open("wb") as output,
            asyncio.Runner(loop_factory=loop_factory()) as runner,
        ):
            runner.run(answer_file(config, server_config, lines, output))
    except OSError as error:
        raise CommandError(f"cannot use {error.filename}: {error.strerror}") from error
    return 0


async def answer_file(
    config: EngineConfig, server_config: ServerConfig, lines: BinaryIO, output: BinaryIO
) -> None:
    """Start the engine, answer the lines, stop it."""
    engine = await start_engine(config)
    try:
        from octavo.server.app import create_app
        from octavo.server.openai.batch_file import BatchCounts, run_batch

        app = create_app(engine, server_config, config.model)
        started = said = time.monotonic()

        def on_line(counts: BatchCounts) -> None:
            nonlocal said
            if time.monotonic() - said > _SECONDS_BETWEEN_LINES:
                said = time.monotonic()
                say(f"{counts.num_done} requests answered")

        counts = await run_batch(
            app,
            lines,
            output,
            most_at_once=2 * config.max_num_seqs,
            max_line_bytes=server_config.max_request_bytes,
            on_line=on_line,
        )
        seconds = time.monotonic() - started
        say(f"{counts.num_done} requests answered in {seconds:.1f} s, {counts.num_failed} with an error")
    finally:
        await engine.stop()
