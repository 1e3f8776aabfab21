"""`octavo doctor`: what is wrong with a server that runs, why, and which flag to change."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator

import msgspec

from octavo.doctor.examine import UnreachableError, diagnose, observe, unreachable
from octavo.doctor.finding import Finding

PROBLEMS = 3
_MOST_SECONDS = 3600


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The server, and for how long to watch it."""
    parser.usage = "octavo doctor [URL] [flags]"
    parser.add_argument(
        "url",
        nargs="?",
        default="http://127.0.0.1:8000",
        metavar="URL",
        help="of the server, octavo's or vLLM's (default: http://127.0.0.1:8000)",
    )
    parser.add_argument(
        "--seconds",
        type=_seconds,
        default=5.0,
        metavar="X",
        help="how long to watch; 0 looks at all that it did since it started (default: 5)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON in place of text")


def run(arguments: argparse.Namespace) -> int:
    """Print the findings; returns 0, or 3 when there are problems or the server does not answer."""
    from rich.console import Console

    url = arguments.url.rstrip("/").removesuffix("/v1")
    if not url.startswith(("http://", "https://")):
        raise ValueError(f"URL must begin with http:// or https://, got {arguments.url!r}")
    with Console(stderr=True).status("") as status:
        try:
            findings = diagnose(observe(url, arguments.seconds, status.update))
        except UnreachableError as error:
            findings = [unreachable(str(error))]
    if arguments.json:
        body = msgspec.json.encode({"url": url, "findings": findings})
        sys.stdout.write(msgspec.json.format(body).decode() + "\n")
    else:
        sys.stdout.write("".join(f"{line}\n" for line in _lines(findings)))
    return PROBLEMS if any(finding.is_problem for finding in findings) else 0


def _lines(findings: list[Finding]) -> Iterator[str]:
    if not findings:
        yield "nothing found"
    for finding in findings:
        yield f"{finding.severity}: {finding.name} ({finding.chapter})"
        yield f"  seen    {finding.evidence}"
        yield f"  cause   {finding.cause}"
        yield f"  change  {finding.change}"


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= _MOST_SECONDS:
        raise argparse.ArgumentTypeError(f"expected a number from 0 to {_MOST_SECONDS}, got {text!r}")
    return seconds
