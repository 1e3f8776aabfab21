"""Bounds on the queue and on time, and whose share a request takes, over HTTP."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import openai
import pytest
from support.live_server import MODEL, LiveServer, live_server

from octavo.server.config import ServerConfig

CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}
LONG = {"model": MODEL, "prompt": "Once upon", "max_tokens": 200, "ignore_eos": True}


@pytest.fixture(scope="module")
def slow() -> Iterator[LiveServer]:
    """A step takes a fifth of a second, and a request no more than a second."""
    with live_server(ServerConfig(request_timeout=1.0), step_seconds=0.2) as server:
        yield server


def test_a_full_queue_is_429_with_retry_after() -> None:
    with live_server(ServerConfig(max_waiting=1), step_seconds=2.0) as server:
        body = {**LONG, "max_tokens": 1}
        first = threading.Thread(target=lambda: server.post("/v1/completions", **body))
        first.start()
        while not server.engine.fake_client.requests:
            time.sleep(0.01)
        refused = server.post("/v1/completions", **body)
        streamed = server.post("/v1/chat/completions", **CHAT, stream=True)
        with pytest.raises(openai.RateLimitError):
            server.openai.completions.create(model=MODEL, prompt="x")
        first.join()
        for response in (refused, streamed):
            assert response.status_code == 429
            assert response.headers["Retry-After"] == "1"
            assert response.json()["error"]["type"] == "RateLimitError"
        assert server.post("/v1/completions", **body).status_code == 200


def test_a_request_that_runs_out_of_time_keeps_what_it_has(slow: LiveServer) -> None:
    started = time.monotonic()
    body = slow.post("/v1/completions", **LONG).json()
    assert 0.9 < time.monotonic() - started < 3.0
    [choice] = body["choices"]
    assert choice["finish_reason"] == "timeout"
    assert 1 <= body["usage"]["completion_tokens"] <= 5


def test_a_stream_says_so_in_its_last_chunk(slow: LiveServer) -> None:
    events = slow.post("/v1/completions", **LONG, stream=True, timeout=0.9).text
    assert '"finish_reason":"timeout"' in events
    assert events.endswith("data: [DONE]\n\n")


def test_a_request_without_a_token_by_then_is_504() -> None:
    # A server of its own: on a shared one, a step that an earlier request began may end within the time.
    with live_server(step_seconds=2.0) as server:
        for stream in (False, True):
            response = server.post("/v1/chat/completions", **CHAT, timeout=0.05, stream=stream)
            assert response.status_code == 504
            error = response.json()["error"]
            assert (error["type"], error["param"]) == ("TimeoutError", "timeout")
            assert error["message"] == "timeout: there was no token within 0.05 s"


def test_the_field_can_only_shorten(slow: LiveServer) -> None:
    started = time.monotonic()
    assert slow.post("/v1/completions", **LONG, timeout=60).status_code == 200
    assert time.monotonic() - started < 3.0


@pytest.mark.parametrize("timeout", [0, -1, 1e9, "soon"])
def test_what_is_no_time_is_refused(slow: LiveServer, timeout: object) -> None:
    response = slow.post("/v1/completions", **LONG, timeout=timeout)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "timeout"


def test_a_timeout_frees_the_engine(slow: LiveServer) -> None:
    slow.post("/v1/completions", **LONG, timeout=0.3)
    deadline = time.monotonic() + 5
    while slow.engine.stats.num_running and time.monotonic() < deadline:
        time.sleep(0.05)
    assert slow.engine.stats.num_running == 0


def test_priority_needs_its_policy(slow: LiveServer) -> None:
    response = slow.post("/v1/completions", **{**LONG, "max_tokens": 1}, priority=1)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "priority"
    assert "--scheduling-policy priority" in response.json()["error"]["message"]


def test_shares_are_by_key_where_there_are_several_else_by_user() -> None:
    short = {"model": MODEL, "prompt": "x", "max_tokens": 1, "user": "someone"}
    with live_server() as server:
        server.post("/v1/completions", **short)
        assert server.engine.fake_client.requests[-1].options.user == "someone"
    with live_server(ServerConfig(api_key=("one", "two"))) as server:
        users = []
        for key in ("one", "two", "one"):
            headers = {"Authorization": f"Bearer {key}"}
            assert server.http.post("/v1/completions", json=short, headers=headers).status_code == 200
            users.append(server.engine.fake_client.requests[-1].options.user)
    assert users[0] == users[2] != users[1]
    assert not {"one", "two", "someone"} & set(users)
