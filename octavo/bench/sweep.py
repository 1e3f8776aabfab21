"""`octavo bench sweep`: the same load at several rates or concurrencies, one after another."""

from __future__ import annotations

import argparse
import dataclasses
import math
import sys
from typing import Any

from rich.console import Console
from rich.table import Table

from octavo.bench.dataset.choose import make_conversations
from octavo.bench.load.config import METRICS, LoadConfig
from octavo.bench.serve import check_report, measure, save, tokenizer_of
from octavo.flags.from_config import add_flags, config_of

HELP = "A server at several request rates or concurrencies, one after another."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The load's flags, of which two take several values."""
    add_flags(parser, LoadConfig, skip=("request_rate", "max_concurrency"))
    parser.add_argument(
        "--request-rate", type=float, nargs="+", metavar="X", help="requests a second, one run for each"
    )
    parser.add_argument(
        "--max-concurrency", type=int, nargs="+", metavar="N", help="requests at a time, one run for each"
    )


def run(arguments: argparse.Namespace) -> int:
    """Print a row for each run; returns 1 when no request of a run succeeded."""
    config, points = _points(arguments)
    check_report(config)
    tokenizer = tokenizer_of(config)
    results = []
    for number, each in enumerate(points):
        # Other prompts in each run, or a prefix cache would make the later ones look faster.
        point = dataclasses.replace(each, seed=config.seed + number)
        sys.stderr.write(f"octavo: run {number + 1} of {len(points)}: {name_of(point)}\n")
        result = measure(point, tokenizer, make_conversations(point, tokenizer))
        results.append(result)
        if config.save_result:
            save(result, dataclasses.replace(point, result_filename=_filename(config, number)))
    Console(width=None if sys.stdout.isatty() else 140).print(table(points, results))
    if config.report is not None or config.plot is not None:
        from octavo.bench.report.sweep_plots import plot_sweep
        from octavo.bench.report.write import write_report

        names = [name_of(point) for point in points]
        figures = plot_sweep(names, results, config.metrics, config.percentiles)
        write_report(config, f"{results[0]['model_id']} at {config.url}", results, figures)
    return 0 if all(result["completed"] for result in results) else 1


def table(points: list[LoadConfig], results: list[dict[str, Any]]) -> Table:
    """A row for each run."""
    config = points[0]
    columns = [("requests/s", "request_throughput"), ("output tok/s", "output_throughput")]
    if config.targets:
        columns.append(("goodput/s", "request_goodput"))
    for metric in config.metrics:
        short = METRICS[metric][0]
        columns.append((f"median {short} ms", f"median_{metric}_ms"))
        columns += [(f"p{each:g} {short} ms", f"p{each:g}_{metric}_ms") for each in config.percentiles]
    made = Table()
    made.add_column("load")
    for title, _ in columns:
        made.add_column(title, justify="right")
    made.add_column("failed", justify="right")
    for point, result in zip(points, results, strict=True):
        figures = [f"{result[key]:,.2f}" for _, key in columns]
        made.add_row(name_of(point), *figures, str(result["failed"]))
    return made


def name_of(point: LoadConfig) -> str:
    """What is particular to a run."""
    parts = []
    if not math.isinf(point.request_rate):
        parts.append(f"{point.request_rate:g}/s")
    if point.max_concurrency is not None:
        parts.append(f"{point.max_concurrency} at a time")
    return ", ".join(parts) or "all at once"


def _points(arguments: argparse.Namespace) -> tuple[LoadConfig, list[LoadConfig]]:
    """The common config and that of each run: every rate at every concurrency."""
    rates, limits = arguments.request_rate, arguments.max_concurrency
    del arguments.request_rate, arguments.max_concurrency
    config = config_of(LoadConfig, arguments)
    if not rates and not limits:
        raise ValueError("--request-rate or --max-concurrency must be given, with a value for each run")
    points = [
        dataclasses.replace(config, request_rate=rate, max_concurrency=limit)
        for limit in limits or [None]
        for rate in rates or [math.inf]
    ]
    return config, points


def _filename(config: LoadConfig, number: int) -> str | None:
    """A name for each run, in order, where one was given for all."""
    if config.result_filename is None:
        return None
    stem, dot, suffix = config.result_filename.rpartition(".")
    return f"{stem if dot else suffix}-{number + 1}{dot}{suffix if dot else ''}"
