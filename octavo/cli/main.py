"""The `octavo` command: finds the subcommand, runs it, and says in one line what went wrong."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from typing import NoReturn, Protocol, cast

import octavo
from octavo.cli.errors import CommandError
from octavo.flags.from_config import expand_flags, unknown_flag

COMMANDS = {
    "serve": ("octavo.cli.serve", "Serve a model over the OpenAI API."),
    "run-batch": ("octavo.cli.run_batch", "Answer the requests of an OpenAI batch file."),
    "chat": ("octavo.cli.chat", "Chat with a model in the terminal."),
    "complete": ("octavo.cli.complete", "Complete a text on standard output."),
    "plan": (
        "octavo.cli.plan",
        "Say whether a model fits, how fast it will be, how many replicas a load takes.",
    ),
    "inspect": (
        "octavo.cli.inspect",
        "Say what a model is made of, how it is stored, and whether it fits here.",
    ),
    "quantize": (
        "octavo.cli.quantize",
        "Write a checkpoint with fewer bits: safetensors (compressed-tensors) or GGUF.",
    ),
    "doctor": ("octavo.cli.doctor", "Say what is wrong with a server that runs, why, and what to change."),
    "bench": ("octavo.bench.command", "Measure this machine, a server, or octavo beside its peers."),
}
"""Each subcommand's module, which is imported only when the subcommand runs, and its line of help."""

INTERRUPTED = 130


class Command(Protocol):
    """What a subcommand's module has."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the arguments."""

    def run(self, arguments: argparse.Namespace) -> int:
        """Do it; returns the exit code. Raises ValueError or CommandError with a line for the user."""


class OneLineParser(argparse.ArgumentParser):
    """A parser whose errors are one line, without the usage of many flags before it."""

    def error(self, message: str) -> NoReturn:
        """Leave with exit code 2."""
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0, 1 for an error, 2 for wrong arguments."""
    arguments = expand_flags(sys.argv[1:] if argv is None else argv)
    name = arguments[0] if arguments else ""
    parser, subparsers = _parsers()
    if name in COMMANDS:
        command = cast(Command, importlib.import_module(COMMANDS[name][0]))
        command.add_arguments(subparsers[name])
    parsed, unknown = parser.parse_known_args(arguments)
    if unknown:
        subparsers[name].error(unknown_flag(unknown[0], subparsers[name]))
    try:
        return command.run(parsed)
    except (ValueError, CommandError) as error:
        print(f"octavo: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has left; the flush at exit must not complain about it again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _parsers() -> tuple[OneLineParser, dict[str, OneLineParser]]:
    """The parser and those of the subcommands, which have no arguments yet."""
    parser = OneLineParser(
        prog="octavo",
        description="A fast, deterministic LLM inference engine, CPU first.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"octavo {octavo.__version__}")
    group = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, (_, line) in COMMANDS.items():
        group.add_parser(
            name,
            help=line,
            description=line,
            usage=f"octavo {name} [MODEL] [flags]",
            allow_abbrev=False,
            formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=30, width=100),
        )
    return parser, dict(group.choices)


if __name__ == "__main__":
    sys.exit(main())
