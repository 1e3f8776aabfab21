"""`octavo bench`: measure this machine, a server, or a server beside its peers."""

from __future__ import annotations

import argparse
import importlib
from typing import Protocol, cast


class Benchmark(Protocol):
    """What a benchmark's module has."""

    HELP: str

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the arguments."""

    def run(self, arguments: argparse.Namespace) -> int:
        """Do it; returns the exit code. Raises ValueError with a line for the user."""


BENCHMARKS = {
    name: f"octavo.bench.{module}"
    for name, module in {
        "latency": "latency",
        "throughput": "throughput",
        "serve": "serve",
        "sweep": "sweep",
        "compare": "compare_command",
    }.items()
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The benchmarks, each a subcommand."""
    parser.usage = "octavo bench BENCHMARK [flags]"
    group = parser.add_subparsers(dest="benchmark", metavar="BENCHMARK", required=True, prog="octavo bench")
    for name, module in BENCHMARKS.items():
        benchmark = cast(Benchmark, importlib.import_module(module))
        benchmark.add_arguments(
            group.add_parser(name, help=benchmark.HELP, description=benchmark.HELP, allow_abbrev=False)
        )


def run(arguments: argparse.Namespace) -> int:
    """Run the benchmark; returns the exit code."""
    return cast(Benchmark, importlib.import_module(BENCHMARKS[arguments.benchmark])).run(arguments)
