"""A request that arrives too slowly, or never, holds nothing for long."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator

import pytest
from support.live_server import LiveServer, live_server

from octavo.server.config import ServerConfig

SECONDS = 0.4
BODY = json.dumps({"prompt": "x", "max_tokens": 3}).encode()


def head(path: str = "/v1/completions") -> bytes:
    return (
        f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(BODY)}\r\n\r\n"
    ).encode()


@pytest.fixture(scope="module")
def server() -> Iterator[LiveServer]:
    with live_server(ServerConfig(request_read_timeout=SECONDS, timeout_keep_alive=30), 0.3) as server:
        yield server


def connect(server: LiveServer) -> socket.socket:
    host, port = server.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=20)


def rest(client: socket.socket) -> bytes:
    """What comes until the server closes."""
    parts = []
    while part := client.recv(65536):
        parts.append(part)
    return b"".join(parts)


def answer(raw: bytes) -> tuple[int, dict[str, object]]:
    headers, _, body = raw.partition(b"\r\n\r\n")
    assert b"connection: close" in headers.lower()
    return int(headers.split()[1]), json.loads(body)


@pytest.mark.parametrize("sent", [head()[:30], head(), head() + BODY[:5]], ids=["headers", "none", "body"])
def test_it_is_told_that_its_time_is_over(server: LiveServer, sent: bytes) -> None:
    with connect(server) as client:
        client.sendall(sent)
        status, body = answer(rest(client))
    assert status == 408
    assert body["error"] == {
        "message": "the request had not arrived after 0.4 s (--request-read-timeout)",
        "type": "RequestTimeoutError",
        "param": None,
        "code": 408,
    }
    deadline = time.monotonic() + 60
    while server.http.get("/load").json()["server_load"]:
        assert time.monotonic() < deadline


def test_in_the_shape_of_the_api_that_it_asked(server: LiveServer) -> None:
    with connect(server) as client:
        client.sendall(head("/v1/messages"))
        status, body = answer(rest(client))
    assert (status, body["type"]) == (408, "error")


def test_a_byte_now_and_then_gains_no_time(server: LiveServer) -> None:
    with connect(server) as client:
        client.setblocking(False)
        for byte in head() + BODY:
            try:
                client.sendall(bytes([byte]))
                if client.recv(65536, socket.MSG_PEEK) is not None:
                    break
            except BlockingIOError:
                pass
            except ConnectionError:
                break
            time.sleep(0.05)
        else:
            raise AssertionError("all of it was taken")


def test_a_connection_on_which_nothing_comes_is_closed_without_a_word(server: LiveServer) -> None:
    with connect(server) as client:
        assert rest(client) == b""


def test_the_second_request_of_a_connection_too(server: LiveServer) -> None:
    with connect(server) as client:
        client.sendall(head() + BODY + head()[:20])
        first = b""
        while b"length" not in first:  # its finish_reason: it took longer than a request may to arrive
            first += client.recv(65536)
        assert first.startswith(b"HTTP/1.1 200")
        assert b" 408 " in first + rest(client)


def test_a_connection_may_be_idle_for_longer(server: LiveServer) -> None:
    with connect(server) as client:
        for _ in range(2):
            client.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
            assert client.recv(65536).startswith(b"HTTP/1.1 200")
            time.sleep(2 * SECONDS)


def test_an_idle_connection_is_closed_after_a_while() -> None:
    with live_server(ServerConfig(timeout_keep_alive=1)) as server, connect(server) as client:
        client.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert rest(client).startswith(b"HTTP/1.1 200")
