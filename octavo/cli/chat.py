"""`octavo chat`: a conversation in the terminal."""

from __future__ import annotations

import argparse
import contextlib
from typing import Any

from rich.console import Console

from octavo.cli.errors import CommandError
from octavo.cli.text_source import TextSource, add_source_flags, open_source
from octavo.flags.sampling_flags import request_fields

HELP = "/clear begins again, /exit leaves, Ctrl-C stops an answer"

Messages = list[dict[str, str]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The model, the system message, and how to sample."""
    parser.add_argument("--system", metavar="TEXT", help="the system message that begins the conversation")
    add_source_flags(parser)


def run(arguments: argparse.Namespace) -> int:
    """Talk until the user leaves."""
    fields = request_fields(arguments)
    opening: Messages = [{"role": "system", "content": arguments.system}] if arguments.system else []
    console = Console(highlight=False)
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 (gives the prompt its line editing and history)
    with open_source(arguments) as source:
        console.print(f"[bold]{source.name}[/bold]: {HELP}.", style="dim")
        talk(console, source, opening, fields)
    return 0


def talk(console: Console, source: TextSource, opening: Messages, fields: dict[str, Any]) -> None:
    """Read lines and answer them until /exit or the end of the input."""
    messages = list(opening)
    while True:
        try:
            line = console.input("[bold green]>[/bold green] ").strip()
        except (EOFError, KeyboardInterrupt):
            console.print()
            return
        if line in ("/exit", "/quit"):
            return
        if line == "/clear":
            messages = list(opening)
        elif line.startswith("/"):
            console.print(f"{line.split()[0]} is not known: {HELP}.", style="yellow", markup=False)
        elif line:
            question = {"role": "user", "content": line}
            if reply := answer(console, source, [*messages, question], fields):
                messages += [question, {"role": "assistant", "content": reply}]


def answer(console: Console, source: TextSource, messages: Messages, fields: dict[str, Any]) -> str:
    """Print the answer as it comes; returns it, or nothing when it failed."""
    reply = ""
    try:
        for piece in source.chat(messages, fields):
            reply += piece
            console.print(piece, end="", markup=False, soft_wrap=True)
    except KeyboardInterrupt:
        console.print(" (stopped)", style="dim", end="")
    except (ValueError, CommandError) as error:
        console.print(f"{error}", style="red", markup=False, end="")
        reply = ""
    console.print()
    return reply
