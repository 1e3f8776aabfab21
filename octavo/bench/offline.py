"""What the two benchmarks without a server share: the engine's flags, and a result as JSON."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

from octavo.flags.model_argument import add_engine_flags, engine_config
from octavo.llm import LLM


def add_llm_flags(parser: argparse.ArgumentParser) -> None:
    """The engine's flags and where to write the result."""
    add_engine_flags(parser)
    parser.add_argument("--output-json", type=Path, metavar="FILE", help="write the result there as JSON")


def make_llm(arguments: argparse.Namespace, *, enable_prefix_caching: bool) -> LLM:
    """The model, with a prefix cache as given unless a flag says otherwise; raises ValueError as LLM does."""
    if not hasattr(arguments, "enable_prefix_caching"):
        arguments.enable_prefix_caching = enable_prefix_caching
    settings = dataclasses.asdict(engine_config(arguments))
    return LLM(settings.pop("model"), **settings)


def write_json(arguments: argparse.Namespace, result: dict[str, Any]) -> None:
    """Write the result where that was asked for; raises ValueError when it can not be written."""
    if arguments.output_json is None:
        return
    try:
        arguments.output_json.write_text(json.dumps(result, indent=4) + "\n")
    except OSError as error:
        raise ValueError(f"--output-json: {error}") from error
