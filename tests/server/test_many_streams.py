"""Many streams at once on the demo model: none is dropped, and those that leave hold no block.

The suite opens 16 of them; `OCTAVO_STREAMS=200 pytest tests/server/test_many_streams.py` opens 200.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from support.serve_command import Command, serve

pytest.importorskip("octavo._native", reason="the kernels are not built")

NUM_STREAMS = int(os.environ.get("OCTAVO_STREAMS", "16"))
MAX_TOKENS = 32
SECONDS = 300.0


@pytest.fixture(scope="module")
def command(demo_model: Path) -> Iterator[Command]:
    with serve(demo_model, "--max-num-seqs", "256") as command:
        yield command


async def stream(http: httpx.AsyncClient, number: int, leave_after: int | None) -> int | None:
    """The tokens of a whole stream; None for one that was left after some events, or before the first."""
    body = {"prompt": f"The number {number} is", "max_tokens": MAX_TOKENS, "ignore_eos": True, "stream": True}
    body |= {"seed": number, "stream_options": {"include_usage": True}}
    events = []
    if leave_after == 0:
        asking = asyncio.ensure_future(http.post("/v1/completions", json=body))
        await asyncio.sleep(random.random())
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        return None
    async with http.stream("POST", "/v1/completions", json=body) as response:
        assert response.status_code == 200
        async for line in response.aiter_lines():
            if line:
                events.append(line.removeprefix("data: "))
            if leave_after is not None and len(events) >= leave_after:
                return None
    assert events[-1] == "[DONE]"
    assert any('"finish_reason":"length"' in event for event in events)
    tokens: int = json.loads(events[-2])["usage"]["completion_tokens"]
    return tokens


def run_all(command: Command, leave_after: list[int | None]) -> list[int | BaseException | None]:
    async def run() -> list[int | BaseException | None]:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=command.url, timeout=SECONDS, limits=limits) as http:
            streams = [stream(http, number, each) for number, each in enumerate(leave_after)]
            return await asyncio.gather(*streams, return_exceptions=True)

    return asyncio.run(run())


def wait_until_nothing_is_held(command: Command) -> None:
    deadline = time.monotonic() + 60
    names = ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc")
    while any(command.metric(name) for name in names):
        assert time.monotonic() < deadline, {name: command.metric(name) for name in names}
        time.sleep(0.05)


def test_none_is_dropped(command: Command) -> None:
    started = time.monotonic()
    assert run_all(command, [None] * NUM_STREAMS) == [MAX_TOKENS] * NUM_STREAMS
    print(f"\n{NUM_STREAMS} streams of {MAX_TOKENS} tokens in {time.monotonic() - started:.1f} s")
    wait_until_nothing_is_held(command)


def test_half_of_them_leave_and_nothing_is_held(command: Command) -> None:
    chance = random.Random(0)
    leave_after = [chance.randrange(12) if number % 2 else None for number in range(NUM_STREAMS)]
    found = run_all(command, leave_after)
    assert found[::2] == [MAX_TOKENS] * len(found[::2])
    assert found[1::2] == [None] * len(found[1::2])
    wait_until_nothing_is_held(command)
    assert command.http.get("/load").json() == {"server_load": 0}
