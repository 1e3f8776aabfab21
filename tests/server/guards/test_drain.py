"""SIGTERM: probes and new requests are told, open streams finish, and the wait for them has an end."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx
import openai
import pytest
from support.live_server import LiveServer, live_server

from octavo.server.config import ServerConfig

LONG = {"prompt": "x", "max_tokens": 200, "ignore_eos": True, "stream": True}


def begin_drain(server: LiveServer) -> None:
    """What the signal handler does."""
    server.call(server.http_server.handle_exit, 15, None)
    server.wait_until(lambda: server.http_server._draining)


@contextmanager
def running(server: LiveServer) -> Iterator[Iterator[str]]:
    """The lines of a stream after the first one, from a server that is held."""
    with ThreadPoolExecutor() as threads, httpx.Client(timeout=60) as client:
        request = client.build_request("POST", f"{server.url}/v1/completions", json=LONG)
        response = threads.submit(client.send, request, stream=True)
        server.wait_for_requests(1)
        server.run_steps(2)
        lines = response.result().iter_lines()
        assert next(lines).startswith("data: {")
        yield lines


def test_probes_and_new_requests_are_told_while_a_stream_finishes() -> None:
    with live_server() as server:
        server.hold()
        assert server.http.get("/load").json() == {"server_load": 0}
        with running(server) as lines:
            assert server.http.get("/load").json() == {"server_load": 1}
            begin_drain(server)
            for path in ("/health", "/ping"):
                assert server.http.get(path).status_code == 503
            assert server.http.get("/metrics").status_code == 200
            with pytest.raises(openai.InternalServerError) as refused:
                server.openai.completions.create(model="hash", prompt="x")
            assert refused.value.status_code == 503
            assert refused.value.response.headers["retry-after"] == "1"
            assert server.http.post("/v1/messages", json={}).json()["error"]["type"] == "overloaded_error"
            server.release()
            events = [line for line in lines if line]
        assert events[-1] == "data: [DONE]"
        assert json.loads(events[-2].removeprefix("data: "))["choices"][0]["finish_reason"] == "length"
        wait_for_end(server)


def test_without_open_requests_it_ends_at_once() -> None:
    with live_server() as server:
        begin_drain(server)
        wait_for_end(server)


def test_the_live_view_is_not_waited_for() -> None:
    with (
        live_server() as server,
        httpx.stream("GET", f"{server.url}/octavo/live", timeout=60) as response,
    ):
        lines = response.iter_lines()
        next(lines)
        begin_drain(server)
        for _ in lines:
            pass
        wait_for_end(server)


def test_the_wait_is_bounded() -> None:
    texts: list[str] = []
    with live_server(ServerConfig(shutdown_timeout=1)) as server:
        server.hold()
        client = threading.Thread(target=lambda: texts.append(server.post("/v1/completions", **LONG).text))
        client.start()
        server.wait_for_requests(1)
        server.run_steps(2)
        begin_drain(server)
        client.join()
        wait_for_end(server)
    assert "the server was shut down before the answer was complete" in texts[0]


def test_a_second_signal_does_not_wait() -> None:
    with live_server(ServerConfig(shutdown_timeout=600)) as server:
        server.hold()
        body = json.dumps({**LONG, "stream": False}).encode()
        host, port = server.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as client:
            head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
            client.sendall(f"{head}Content-Type: application/json\r\n\r\n".encode() + body)
            server.wait_for_requests(1)
            begin_drain(server)
            server.call(server.http_server.handle_exit, 15, None)
            wait_for_end(server)


def wait_for_end(server: LiveServer) -> None:
    def is_gone() -> bool:
        try:
            httpx.get(f"{server.url}/health")
        except httpx.TransportError:
            return True
        return False

    server.wait_until(is_gone)
