"""`octavo quantize IN OUT`: write a checkpoint with fewer bits."""

from __future__ import annotations

import argparse
import sys

from octavo.flags.from_config import add_flags, config_of
from octavo.quantise.config import QuantiseConfig


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to read, what to write, and how."""
    parser.usage = "octavo quantize IN OUT [flags]"
    parser.add_argument(
        "model", metavar="IN", help="a GGUF file or a Hugging Face directory; empty: the demo model"
    )
    parser.add_argument("output", metavar="OUT", help="a directory, or for the gguf formats a file, to write")
    add_flags(parser, QuantiseConfig, skip=("model", "output"))


def run(arguments: argparse.Namespace) -> int:
    """Quantise; run again with the same arguments, it goes on where it was stopped."""
    from rich.console import Console
    from rich.progress import Progress

    from octavo.quantise.job import quantise

    config = config_of(QuantiseConfig, arguments)
    with Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("reading", total=None)

        def report(what: str, done: int, total: int) -> None:
            bar.update(task, description=what, completed=done, total=total)

        path = quantise(config, report)
    size = sum(file.stat().st_size for file in (path.iterdir() if path.is_dir() else [path]))
    print(f"{path}: {size / (1 << 20):,.1f} MiB")
    return 0
