"""`octavo serve` from end to end: the command, its engine process, the demo model, OpenAI's client."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from support.serve_command import FLAGS, ROOT, Command, serve

pytest.importorskip("octavo._native", reason="the kernels are not built")

QUESTION = [{"role": "user", "content": "What is the capital of Germany?"}]


@pytest.fixture(scope="module")
def command(demo_model: Path) -> Iterator[Command]:
    with serve(demo_model) as command:
        yield command


def chat(command: Command, **arguments: Any) -> Any:
    given = {"model": "demo", "messages": QUESTION, "max_tokens": 24, "temperature": 0}
    return command.openai.chat.completions.create(**{**given, **arguments})


def test_it_answers(command: Command) -> None:
    completion = chat(command)
    assert "Berlin" in completion.choices[0].message.content
    assert completion.choices[0].finish_reason == "stop"
    assert completion.usage.prompt_tokens > 20


def test_the_start_reports_memory(command: Command) -> None:
    report = "".join(line for line in command.lines if line.startswith("octavo engine: "))
    assert re.search(r"Weights take [0-9.]+ MiB", report)
    assert re.search(r"KV cache size: [0-9,]+ tokens in [0-9,]+ blocks, 25[0-9.]+ MiB", report)
    assert re.search(r"Maximum concurrency for 2,048 tokens per request: [0-9.]+x", report)


def test_a_stream_says_the_same(command: Command) -> None:
    whole = chat(command).choices[0].message.content
    stream = chat(command, stream=True, stream_options={"include_usage": True})
    chunks = list(stream)
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == whole
    assert chunks[-1].usage.completion_tokens == chat(command).usage.completion_tokens


def test_logprobs_agree_with_greedy_choice(command: Command) -> None:
    entries = chat(command, logprobs=True, top_logprobs=2).choices[0].logprobs.content
    for entry in entries:
        assert entry.token == entry.top_logprobs[0].token
        assert -10 < entry.logprob <= 0
    assert "".join(entry.token for entry in entries).startswith("The capital")


def test_many_at_once_get_what_each_gets_alone(command: Command) -> None:
    prompts = [f"Count to {n}: 1, 2," for n in range(12)]

    def complete(prompt: str) -> str:
        arguments: dict[str, Any] = {"max_tokens": 16, "temperature": 1.0, "seed": 3}
        chunks = command.openai.completions.create(model="demo", prompt=prompt, stream=True, **arguments)
        return "".join(chunk.choices[0].text for chunk in chunks)

    alone = [complete(prompt) for prompt in prompts]
    with ThreadPoolExecutor(12) as pool:
        assert list(pool.map(complete, prompts)) == alone


def test_leaving_frees_the_blocks(command: Command) -> None:
    before = command.metric("generation_tokens_total")
    body = {"prompt": "Once upon a time", "max_tokens": 1900, "ignore_eos": True, "stream": True}
    with command.http.stream("POST", "/v1/completions", json=body) as response:
        lines = response.iter_lines()
        for _ in range(6):
            next(lines)
        assert command.metric("num_requests_running") == 1
        assert command.metric("kv_cache_usage_perc") > 0
    while command.metric("num_requests_running") or command.metric("kv_cache_usage_perc"):
        time.sleep(0.05)
    assert command.metric("generation_tokens_total") - before < 1900


def test_bad_requests_are_refused_and_forgotten(command: Command) -> None:
    with pytest.raises(openai.BadRequestError, match="2048"):
        command.openai.completions.create(model="demo", prompt="x " * 3000)
    with pytest.raises(openai.NotFoundError):
        command.openai.completions.create(model="gpt-4", prompt="x")
    with pytest.raises(openai.BadRequestError, match="unknown field"):
        chat(command, extra_body={"temprature": 1})
    assert "Berlin" in chat(command).choices[0].message.content


def test_an_open_stream_is_finished_before_the_end(demo_model: Path) -> None:
    with serve(demo_model, "--shutdown-timeout", "120") as command:
        stream = command.openai.completions.create(
            model="demo", prompt="One, two,", max_tokens=300, stream=True, extra_body={"ignore_eos": True}
        )
        next(stream)
        command.process.send_signal(signal.SIGTERM)
        # Probes are told as soon as the signal is taken, and the server listens on for that.
        deadline = time.monotonic() + 60
        while (status := command.http.get("/health").status_code) == 200:
            assert time.monotonic() < deadline
        assert status == 503
        with pytest.raises(openai.InternalServerError, match="shutting down"):
            chat(command)
        rest = list(stream)
        assert rest[-1].choices[0].finish_reason == "length"
        assert command.process.wait(60) == 0
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{command.url}/health")


def test_ctrl_c_ends_it_well_and_takes_the_engine_along(demo_model: Path) -> None:
    with serve(demo_model) as command:
        children = (
            Path(f"/proc/{command.process.pid}/task/{command.process.pid}/children").read_text().split()
        )
        assert children
        assert command.end(signal.SIGINT) == 0
        deadline = time.monotonic() + 60
        while any(Path(f"/proc/{child}").exists() for child in children):
            assert time.monotonic() < deadline
            time.sleep(0.05)
    assert not any("Traceback" in line for line in command.lines)


def test_a_signal_while_it_loads(demo_model: Path) -> None:
    command = [sys.executable, "-m", "octavo", "serve", str(demo_model), *FLAGS]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stderr is not None
        assert process.stderr.readline().startswith("octavo: loading")
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 143
        assert "Traceback" not in process.stderr.read()
