"""What `octavo serve` makes of arguments, without serving."""

from __future__ import annotations

from octavo.cli import serve
from octavo.cli.main import OneLineParser
from octavo.config import EngineConfig
from octavo.flags.from_config import config_of, expand_flags
from octavo.flags.model_argument import engine_config
from octavo.server.config import ServerConfig


def parse_serve(arguments: list[str]) -> tuple[EngineConfig, ServerConfig]:
    """The configs; raises ValueError or SystemExit for arguments that the command refuses."""
    parser = OneLineParser(prog="octavo serve", allow_abbrev=False)
    serve.add_arguments(parser)
    parsed = parser.parse_args(expand_flags(arguments))
    return engine_config(parsed), config_of(ServerConfig, parsed)
