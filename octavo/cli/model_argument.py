"""Which model: `octavo COMMAND MODEL` or `--model MODEL`, and neither for the demo."""

from __future__ import annotations

import argparse

from octavo.cli.flags import add_flags, config_of
from octavo.config import EngineConfig


def add_engine_flags(parser: argparse.ArgumentParser) -> None:
    """The MODEL argument and the engine's flags."""
    parser.add_argument(
        "positional_model", nargs="?", metavar="MODEL", help="same as --model; none of both: the demo model"
    )
    add_flags(parser, EngineConfig)


def engine_config(arguments: argparse.Namespace) -> EngineConfig:
    """The engine's config; raises ValueError for two models or a setting out of bounds."""
    positional, named = arguments.positional_model, getattr(arguments, "model", None)
    if positional is not None and named is not None and positional != named:
        raise ValueError(f"model (--model): {named!r} and {positional!r} were both given; one is enough")
    return config_of(EngineConfig, arguments, model=positional or named or "")
