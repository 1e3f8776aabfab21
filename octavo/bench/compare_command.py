"""`octavo bench compare`: octavo and a peer, side by side."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import msgspec
from rich.console import Console

from octavo.bench.compare import compare

HELP = "octavo and llama.cpp, taking turns on one GGUF file: prefill, and decode at batch 1, 8 and 32."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The model, the peer, the machine."""
    parser.add_argument("model", nargs="?", default="", help="a GGUF file (default: the demo model)")
    parser.add_argument(
        "--peer-bin",
        required=True,
        type=Path,
        metavar="DIR",
        help="the directory that holds llama-bench and llama-batched-bench",
    )
    parser.add_argument("--threads", type=_positive, metavar="N", help="of each (default: all CPUs)")
    parser.add_argument("--rounds", type=_positive, default=5, metavar="N", help="turns of each (default: 5)")
    parser.add_argument("--json", action="store_true", help="print JSON in place of the table")


def run(arguments: argparse.Namespace) -> int:
    """Run the benchmark; returns the exit code."""
    console = Console(stderr=True)
    with console.status("starting") as status:
        report = compare(
            arguments.model,
            arguments.peer_bin,
            arguments.threads or len(os.sched_getaffinity(0)),
            arguments.rounds,
            status.update,
        )
    if arguments.json:
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(report)).decode() + "\n")
        return 0
    output = Console(width=None if sys.stdout.isatty() else 120)
    output.print(report.table())
    for note in report.notes():
        output.print(note, highlight=False, markup=False)
    return 0


def _positive(text: str) -> int:
    number = int(text) if text.isdecimal() else 0
    if not 1 <= number <= 1024:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1 to 1024, got {text!r}")
    return number
