"""The disk tier behind a real server: what it computed outlives its engine process, and itself."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support.serve_command import Command, serve

pytest.importorskip("octavo._native", reason="the kernels are not built")

PROMPT = [(7 * index * index) % 900 + 300 for index in range(200)]
FULL_BLOCKS = 12


def ask(command: Command) -> tuple[str, int]:
    """What it says, and how many tokens of the prompt it did not compute."""
    body = {"model": "demo", "prompt": PROMPT, "max_tokens": 12, "temperature": 0, "ignore_eos": True}
    answer = command.http.post("/v1/completions", json=body).json()
    return answer["choices"][0]["text"], answer["usage"]["prompt_tokens_details"]["cached_tokens"]


def engine_pid(command: Command) -> int:
    pid = command.process.pid
    (child,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(child)


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_it_outlives_the_engine_and_the_server(demo_model: Path, tmp_path: Path) -> None:
    flags = ("--kv-offload-dir", str(tmp_path), "--kv-offload-disk-gb", "1")

    def saved() -> bool:
        return len(list(tmp_path.rglob("*.kv"))) >= FULL_BLOCKS + 1

    with serve(demo_model, *flags) as command:
        expected, cached = ask(command)
        assert cached == 0
        wait_until(saved)
        os.kill(engine_pid(command), signal.SIGKILL)
        assert ask(command) == (expected, 16 * FULL_BLOCKS)
        assert command.metric("external_prefix_cache_hits_total") == 16 * FULL_BLOCKS
        command.end(signal.SIGKILL)
    with serve(demo_model, *flags) as command:
        assert ask(command) == (expected, 16 * FULL_BLOCKS)
