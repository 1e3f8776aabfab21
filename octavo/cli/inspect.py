"""`octavo inspect`: what a model is made of, how it is stored, and whether it fits here."""

from __future__ import annotations

import argparse
import sys

from octavo.flags.model_argument import add_engine_flags, engine_config

DOES_NOT_FIT = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The model, and the engine's flags that decide what it takes."""
    add_engine_flags(parser)
    parser.add_argument("--json", action="store_true", help="print JSON in place of text")


def run(arguments: argparse.Namespace) -> int:
    """Print the inspection; returns 0, or 3 when the model does not fit here."""
    import msgspec

    from octavo.machine.memory import machine_memory
    from octavo.plan.inspect import inspect_model

    found = inspect_model(engine_config(arguments), machine_memory())
    if arguments.json:
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(found)).decode() + "\n")
    else:
        sys.stdout.write("".join(f"{line}\n" for line in found.lines()))
    return 0 if found.fits else DOES_NOT_FIT
