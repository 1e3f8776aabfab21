"""`octavo bench compare`: octavo and its peers, side by side."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import msgspec
from rich.console import Console

from octavo.bench.compare import compare
from octavo.bench.peers.choose import PEERS, close_peers, find_peers
from octavo.machine.cpus import usable_cpus
from octavo.model.load import resolve_model

HELP = "octavo and its peers, taking turns on one model: prefill, and decode at batch 1, 8 and 32."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The model, the peers, the machine."""
    parser.add_argument("model", nargs="?", default="", help="a GGUF file (default: the demo model)")
    parser.add_argument(
        "--peer",
        nargs="+",
        choices=PEERS,
        default=list(PEERS),
        help="whom to compare with (default: all that there are)",
    )
    parser.add_argument(
        "--peer-bin",
        type=Path,
        metavar="DIR",
        help="the directory that holds llama.cpp's llama-bench and llama-batched-bench",
    )
    parser.add_argument(
        "--peer-python",
        nargs="+",
        default=[sys.executable],
        metavar="PYTHON",
        help="interpreters whose environments may have openvino-genai or transformers (default: this one)",
    )
    parser.add_argument("--threads", type=_positive, metavar="N", help="of each (default: all CPUs)")
    parser.add_argument("--rounds", type=_positive, default=5, metavar="N", help="turns of each (default: 5)")
    parser.add_argument("--json", action="store_true", help="print JSON in place of the table")


def run(arguments: argparse.Namespace) -> int:
    """Run the benchmark; returns the exit code."""
    console = Console(stderr=True)
    threads = arguments.threads or usable_cpus()
    model = resolve_model(arguments.model)
    with console.status("starting") as status:
        peers, skipped = find_peers(
            arguments.peer,
            model,
            threads,
            programs=arguments.peer_bin,
            pythons=arguments.peer_python,
            on_progress=status.update,
        )
        try:
            report = compare(model, peers, skipped, threads, arguments.rounds, status.update)
        finally:
            close_peers(peers)
    if arguments.json:
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(report)).decode() + "\n")
        return 0
    output = Console(width=None if sys.stdout.isatty() else 140)
    output.print(report.table())
    for note in report.notes():
        output.print(note, highlight=False, markup=False)
    return 0


def _positive(text: str) -> int:
    number = int(text) if text.isdecimal() else 0
    if not 1 <= number <= 1024:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1 to 1024, got {text!r}")
    return number
