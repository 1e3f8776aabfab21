"""A server of this installation, started to be measured."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LocalServer:
    """Its address, without a slash at the end, and its process, whose children are the others."""

    url: str
    pid: int


@contextmanager
def local_server(flags: Sequence[str]) -> Iterator[LocalServer]:
    """`octavo serve` with these flags on a free port of loopback, from when it is ready to the block's end.

    It logs nothing for each request, since nobody reads that. Raises ValueError, with the last line that it
    wrote, when it does not start.
    """
    command = [
        *(sys.executable, "-P", "-m", "octavo", "serve", *flags),
        *("--host", "127.0.0.1", "--port", "0", "--disable-log-requests", "--log-stats-interval", "0"),
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    line = ""
    try:
        for line in process.stderr:
            if found := re.search(r"at (http://\S+)/v1", line):
                yield LocalServer(found[1], process.pid)
                return
        raise ValueError(f"a server does not start: {line.strip()}")
    finally:
        process.terminate()
        process.stderr.close()
        process.wait()
