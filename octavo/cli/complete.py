"""`octavo complete`: the completion of a text, as it comes."""

from __future__ import annotations

import argparse
import sys

from octavo.cli.text_source import add_source_flags, open_source
from octavo.flags.sampling_flags import request_fields


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The prompt, the model, and how to sample."""
    parser.add_argument("--prompt", metavar="TEXT", help="the text to complete (default: standard input)")
    add_source_flags(parser)


def run(arguments: argparse.Namespace) -> int:
    """Write the completion to standard output, without the prompt."""
    fields = request_fields(arguments)
    prompt = arguments.prompt if arguments.prompt is not None else sys.stdin.read()
    if not prompt:
        raise ValueError("prompt (--prompt) is empty")
    with open_source(arguments) as source:
        for piece in source.complete(prompt, fields):
            sys.stdout.write(piece)
            sys.stdout.flush()
    if sys.stdout.isatty():
        print()
    return 0
