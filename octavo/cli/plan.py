"""`octavo plan`: whether a model fits, how fast it will be, how many replicas a load takes, at what cost."""

from __future__ import annotations

import argparse
import sys

from octavo.flags.from_config import add_flags, config_of
from octavo.plan.make import PlanConfig, make_plan

DOES_NOT_FIT = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The model, the devices, the load."""
    parser.add_argument("positional_model", nargs="?", metavar="MODEL", help="same as --model")
    add_flags(parser, PlanConfig)
    parser.add_argument("--json", action="store_true", help="print JSON in place of text")


def run(arguments: argparse.Namespace) -> int:
    """Print the plan; returns 0, or 3 when the model does not fit or no number of replicas would do."""
    from rich.console import Console

    model = arguments.positional_model or getattr(arguments, "model", "")
    config = config_of(PlanConfig, arguments, model=model)
    with Console(stderr=True).status("planning") as status:
        plan = make_plan(config, status.update)
    if arguments.json:
        sys.stdout.write(plan.to_json().decode() + "\n")
    else:
        sys.stdout.write("".join(f"{line}\n" for line in plan.lines()))
    return 0 if plan.service is not None and plan.service.replicas is not None else DOES_NOT_FIT
