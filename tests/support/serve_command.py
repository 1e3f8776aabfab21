"""`octavo serve` as a process of its own, with an engine process, on a free port."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import openai

import octavo

ROOT = Path(octavo.__file__).parents[1]
TESTS = Path(__file__).parents[1]
"""Where servers find what tests have for them to import."""
FLAGS = ("--max-model-len", "2048", "--kv-cache-memory-bytes", "256MiB", "--host", "127.0.0.1", "--port", "0")


class Command:
    """A running `octavo serve`."""

    def __init__(self, model: Path, *flags: str) -> None:
        command = [sys.executable, "-m", "octavo", "serve", str(model), *FLAGS, *flags]
        environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{TESTS}"}
        self.process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment
        )
        self.lines: list[str] = []
        self._ready = threading.Event()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        if not self._ready.wait(120) or not hasattr(self, "url"):
            self.process.kill()
            raise AssertionError("".join(self.lines))
        self.http = httpx.Client(base_url=self.url, timeout=60)
        self.openai = openai.OpenAI(base_url=f"{self.url}/v1", api_key="any", max_retries=0, timeout=60)

    def metric(self, name: str) -> float:
        text = self.http.get("/metrics").text
        [line] = [line for line in text.splitlines() if line.startswith(f"vllm:{name}{{")]
        return float(line.split()[-1])

    def end(self, how: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal and wait; returns the exit code."""
        self.http.close()
        self.openai.close()
        self.process.send_signal(how)
        try:
            return self.process.wait(60)
        finally:
            self.process.kill()
            self._reader.join(60)

    def _read(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as stderr:
            for line in stderr:
                self.lines.append(line)
                if found := re.search(r"serving .+ at (http://\S+)/v1", line):
                    self.url = found.group(1)
                    self._ready.set()
        self._ready.set()


@contextmanager
def serve(model: Path, *flags: str) -> Iterator[Command]:
    command = Command(model, "--served-model-name", "demo", *flags)
    try:
        yield command
    finally:
        command.end()
