"""Bounds on the queue and on time, and whose share a request takes, over HTTP."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import openai
import pytest
from support.live_server import MODEL, LiveServer, live_server

from octavo.server.config import ServerConfig

CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}
LONG = {"model": MODEL, "prompt": "Once upon", "max_tokens": 200, "ignore_eos": True}


@contextmanager
def asking(server: LiveServer, **body: object) -> Iterator[list[httpx.Response]]:
    """A completion of a server that is held, with the engine when the block begins; the answer after it."""
    answers: list[httpx.Response] = []
    client = threading.Thread(target=lambda: answers.append(server.post("/v1/completions", **body)))
    before = len(server.engine.fake_client.requests)
    client.start()
    server.wait_for_requests(before + 1)
    yield answers
    client.join()


def test_a_full_queue_is_429_with_retry_after() -> None:
    with live_server(ServerConfig(max_waiting=1)) as server:
        server.hold()
        body = {**LONG, "max_tokens": 1}
        with asking(server, **body):
            refused = server.post("/v1/completions", **body)
            streamed = server.post("/v1/chat/completions", **CHAT, stream=True)
            with pytest.raises(openai.RateLimitError):
                server.openai.completions.create(model=MODEL, prompt="x")
            server.release()
        for response in (refused, streamed):
            assert response.status_code == 429
            assert response.headers["Retry-After"] == "1"
            assert response.json()["error"]["type"] == "RateLimitError"
        assert server.post("/v1/completions", **body).status_code == 200


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_that_runs_out_of_time_keeps_what_it_has(stream: bool) -> None:
    with live_server() as server:
        server.hold()
        usage = {"stream_options": {"include_usage": True}} if stream else {}
        with asking(server, **LONG, **usage, stream=stream, timeout=30.0) as answers:
            server.run_steps(3)
            server.pass_time(30.0)
        [response] = answers
    assert response.status_code == 200
    if stream:
        assert '"completion_tokens":3' in response.text
        assert '"finish_reason":"timeout"' in response.text
        assert response.text.endswith("data: [DONE]\n\n")
    else:
        [choice] = response.json()["choices"]
        assert choice["finish_reason"] == "timeout"
        assert response.json()["usage"]["completion_tokens"] == 3


def test_a_request_without_a_token_by_then_is_504() -> None:
    with live_server() as server:
        server.hold()
        for stream in (False, True):
            response = server.post("/v1/chat/completions", **CHAT, timeout=0.05, stream=stream)
            assert response.status_code == 504
            error = response.json()["error"]
            assert (error["type"], error["param"]) == ("TimeoutError", "timeout")
            assert error["message"] == "timeout: there was no token within 0.05 s"


def test_the_field_can_only_shorten() -> None:
    with live_server(ServerConfig(request_timeout=0.1)) as server:
        server.hold()
        error = server.post("/v1/completions", **LONG, timeout=60).json()["error"]
        assert error["message"] == "timeout: there was no token within 0.1 s"


@pytest.mark.parametrize("timeout", [0, -1, 1e9, "soon"])
def test_what_is_no_time_is_refused(server: LiveServer, timeout: object) -> None:
    response = server.post("/v1/completions", **LONG, timeout=timeout)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "timeout"


def test_a_timeout_frees_the_engine() -> None:
    with live_server() as server:
        server.hold()
        server.post("/v1/completions", **LONG, timeout=0.3)
        engine = server.engine.fake_client._engine
        server.wait_until(lambda: not engine.has_work)
        server.release()
        server.wait_until(lambda: not server.engine.stats.num_running)


def test_priority_needs_its_policy(server: LiveServer) -> None:
    response = server.post("/v1/completions", **{**LONG, "max_tokens": 1}, priority=1)
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
