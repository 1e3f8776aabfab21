"""Which model: `octavo COMMAND MODEL` or `--model MODEL`, and neither for the demo."""

from __future__ import annotations

import argparse

from octavo.config import EngineConfig
from octavo.flags.from_config import add_flags, config_of
from octavo.flags.vllm_flags import add_vllm_flags, check_vllm_flags


def add_engine_flags(parser: argparse.ArgumentParser) -> None:
    """The MODEL argument and the engine's flags."""
    parser.add_argument(
        "positional_model", nargs="?", metavar="MODEL", help="same as --model; none of both: the demo model"
    )
    add_flags(parser, EngineConfig)
    add_vllm_flags(parser)


def engine_config(arguments: argparse.Namespace) -> EngineConfig:
    """The engine's config.

    Raises ValueError for two models, a setting out of bounds, or a flag of vLLM's with a value that asks for
    what octavo does not do.
    """
    positional, named = arguments.positional_model, getattr(arguments, "model", None)
    if positional is not None and named is not None and positional != named:
        raise ValueError(f"model (--model): {named!r} and {positional!r} were both given; one is enough")
    model = positional or named or ""
    check_vllm_flags(arguments)
    return config_of(EngineConfig, arguments, model=model)
