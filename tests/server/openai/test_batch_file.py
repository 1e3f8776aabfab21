"""OpenAI's batch files, on an engine in the event loop; the command itself on the demo model."""

from __future__ import annotations

import asyncio
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.in_process_engine import InProcessEngine
from support.serve_command import ROOT

from octavo.server.app import create_app
from octavo.server.config import ServerConfig
from octavo.server.openai.batch_file import BatchCounts, run_batch

HI = [{"role": "user", "content": "hi"}]


def request(custom_id: str, url: str, **body: Any) -> dict[str, Any]:
    return {"custom_id": custom_id, "method": "POST", "url": url, "body": body}


def answers(
    lines: list[Any], most_at_once: int = 4, max_line_bytes: int = 1 << 20
) -> tuple[list[Any], BatchCounts, int]:
    """The lines of output, what was counted, and the most sequences that ran at once."""
    content = b"".join(
        (line if isinstance(line, bytes) else json.dumps(line).encode()) + b"\n" for line in lines
    )
    output = io.BytesIO()
    most = 0

    async def run() -> BatchCounts:
        nonlocal most
        engine = InProcessEngine()
        await engine.launch()
        app = create_app(engine, ServerConfig(), "hash")
        on_step = engine.on_step
        assert on_step is not None

        def count(step: Any) -> None:
            nonlocal most
            most = max(most, step.stats.num_running)
            on_step(step)

        engine.on_step = count
        counts = await run_batch(
            app, io.BytesIO(content), output, most_at_once=most_at_once, max_line_bytes=max_line_bytes
        )
        await engine.stop()
        return counts

    counts = asyncio.run(run())
    return [json.loads(line) for line in output.getvalue().splitlines()], counts, most


def test_each_line_is_answered_in_its_place() -> None:
    lines = [
        request("chat", "/v1/chat/completions", model="hash", messages=HI, max_tokens=30),
        request("short", "/v1/completions", model="hash", prompt="x", max_tokens=1),
        request("response", "/v1/responses", model="hash", input="hi", max_output_tokens=2),
    ]
    found, counts, _ = answers(lines)
    assert (counts.num_done, counts.num_failed) == (3, 0)
    assert [each["custom_id"] for each in found] == ["chat", "short", "response"]
    for each in found:
        assert set(each) == {"id", "custom_id", "response", "error"}
        assert each["error"] is None
        assert each["response"]["status_code"] == 200
        assert each["response"]["request_id"]
    bodies = [each["response"]["body"] for each in found]
    assert [body["object"] for body in bodies] == ["chat.completion", "text_completion", "response"]
    assert bodies[0]["usage"]["completion_tokens"] == 30
    assert len({each["id"] for each in found}) == 3


def test_what_is_wrong_with_a_line_is_its_answer_and_the_others_go_on() -> None:
    good = request("good", "/v1/completions", model="hash", prompt="x", max_tokens=1)
    lines = [
        b"nonsense",
        {**good, "custom_id": "method", "method": "GET"},
        {**good, "custom_id": "url", "url": "/v1/audio"},
        {**good, "custom_id": "extra", "colour": "red"},
        b"",
        request("stream", "/v1/completions", prompt="x", stream=True),
        request("field", "/v1/completions", prompt="x", temprature=1),
        request("model", "/v1/completions", prompt="x", model="gpt-4"),
        request("embedding", "/v1/embeddings", input="x"),
        b"x" * 3000,
        good,
    ]
    found, counts, _ = answers(lines, max_line_bytes=1000)
    assert (counts.num_done, counts.num_failed) == (10, 9)
    by_id = {each["custom_id"]: each for each in found}
    assert found[0]["custom_id"] is None
    assert "no request" in found[0]["error"]["message"]
    assert "longer than 1000" in found[-2]["error"]["message"]
    for name, says in (("method", "POST"), ("url", "url must be"), ("extra", "colour"), ("stream", "stream")):
        assert by_id[name]["response"] is None
        assert says in by_id[name]["error"]["message"]
    for name, status in (("field", 400), ("model", 404), ("embedding", 400)):
        assert by_id[name]["response"]["status_code"] == status
        assert by_id[name]["response"]["body"]["error"]["message"]
    assert by_id["good"]["response"]["status_code"] == 200


def test_only_so_many_run_at_once() -> None:
    lines = [request(str(n), "/v1/completions", prompt=f"{n}", max_tokens=5) for n in range(20)]
    found, counts, most = answers(lines, most_at_once=3)
    assert counts.num_done == 20
    assert [each["custom_id"] for each in found] == [str(n) for n in range(20)]
    assert most <= 3


def test_the_command(demo_model: Path, tmp_path: Path) -> None:
    pytest.importorskip("octavo._native", reason="the kernels are not built")
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    question = [{"role": "user", "content": "What is the capital of Germany?"}]
    lines = [
        request(str(n), "/v1/chat/completions", messages=question, max_tokens=20, temperature=0)
        for n in range(3)
    ]
    source.write_text("".join(json.dumps(line) + "\n" for line in lines))
    command = [sys.executable, "-m", "octavo", "run-batch", str(demo_model), "-i", str(source)]
    flags = ["-o", str(target), "--max-model-len", "512", "--kv-cache-memory-bytes", "64MiB"]
    done = subprocess.run(
        [*command, *flags],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    assert "3 requests answered" in done.stderr
    found = [json.loads(line) for line in target.read_text().splitlines()]
    assert [each["custom_id"] for each in found] == ["0", "1", "2"]
    for each in found:
        assert "Berlin" in each["response"]["body"]["choices"][0]["message"]["content"]
