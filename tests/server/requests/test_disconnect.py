"""A client that leaves takes its request along: the engine stops and its blocks are free."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator

import pytest
from support.live_server import LiveServer, live_server

BODY = {"prompt": "x", "max_tokens": 250, "ignore_eos": True}


@pytest.fixture(scope="module")
def slow() -> Iterator[LiveServer]:
    """A request of 250 tokens takes 5 seconds at least."""
    with live_server(step_seconds=0.02) as server:
        yield server


def wait_until_idle(server: LiveServer) -> None:
    """The engine is held until it has nothing left to do: no request can end by its last token."""
    engine = server.engine.fake_client._engine
    server.hold()
    server.wait_until(lambda: not engine.has_work)
    server.release()
    server.wait_until(
        lambda: not (server.metric("num_requests_running") or server.metric("kv_cache_usage_perc"))
    )


def send(server: LiveServer, path: str, body: dict[str, object]) -> socket.socket:
    """A request whose answer is not read."""
    host, port = server.url.removeprefix("http://").split(":")
    client = socket.create_connection((host, int(port)))
    content = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    client.sendall(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
    return client


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("prompt", ["x", ["x", "y", "z"]])
def test_leaving_frees_the_blocks(slow: LiveServer, stream: bool, prompt: str | list[str]) -> None:
    requests = slow.engine.fake_client.requests
    before, count = len(requests), 2 if isinstance(prompt, str) else 6
    slow.hold()
    client = send(slow, "/v1/completions", {**BODY, "prompt": prompt, "stream": stream, "n": 2})
    slow.wait_for_requests(before + count)
    slow.run_steps(2)
    assert slow.metric("num_requests_running") == count
    assert slow.metric("kv_cache_usage_perc") > 0
    client.close()
    wait_until_idle(slow)
    assert requests[-1].params.max_tokens == 250


def test_leaving_in_the_middle_of_a_stream(slow: LiveServer) -> None:
    body = {"messages": [{"role": "user", "content": "hi"}], "stream": True, "ignore_eos": True}
    with slow.http.stream("POST", "/v1/chat/completions", json=body) as response:
        lines = response.iter_lines()
        for _ in range(3):
            assert next(lines).startswith("data: {")
            assert next(lines) == ""
    wait_until_idle(slow)


def test_leaving_before_the_body_is_there(slow: LiveServer) -> None:
    host, port = slow.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as client:
        client.sendall(
            b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b'Content-Length: 100\r\n\r\n{"prompt"'
        )
    assert slow.post("/v1/completions", prompt="x", max_tokens=1).status_code == 200


def test_aborted_requests_are_counted(slow: LiveServer) -> None:
    def count(reason: str) -> float:
        text = slow.http.get("/metrics").text
        start = f'vllm:request_success_total{{engine="0",finished_reason="{reason}",model_name="hash"}} '
        return next(float(line.removeprefix(start)) for line in text.splitlines() if line.startswith(start))

    before = count("abort")
    send(slow, "/v1/completions", {**BODY, "n": 3}).close()
    slow.wait_until(lambda: count("abort") >= before + 3)
    wait_until_idle(slow)


def test_others_go_on(slow: LiveServer) -> None:
    alone = slow.post("/v1/completions", prompt="stay", max_tokens=20, seed=1).json()["choices"][0]["text"]
    client = send(slow, "/v1/completions", {**BODY, "stream": True})
    with slow.http.stream(
        "POST", "/v1/completions", json={"prompt": "stay", "max_tokens": 20, "seed": 1, "stream": True}
    ) as response:
        lines = response.iter_lines()
        first = next(lines)
        client.close()
        events = [first, *lines]
    chunks = [json.loads(e.removeprefix("data: ")) for e in events if e and e != "data: [DONE]"]
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == alone
