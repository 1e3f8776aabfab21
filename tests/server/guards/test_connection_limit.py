"""A bound on the connections that are open at a time."""

from __future__ import annotations

import resource
import socket
import time
from collections.abc import Iterator

import httpx
import pytest
from support.live_server import LiveServer, live_server

from octavo.server.config import ServerConfig
from octavo.server.guards import http_protocol
from octavo.server.guards.connection_limit import connections_that_fit


@pytest.fixture(scope="module")
def server() -> Iterator[LiveServer]:
    with live_server(ServerConfig(max_connections=2)) as server:
        yield server


@pytest.fixture
def two_connections(server: LiveServer) -> Iterator[list[socket.socket]]:
    """All that are allowed, of which nothing is asked."""
    host, port = server.url.removeprefix("http://").split(":")
    clients = [socket.create_connection((host, int(port)), timeout=20) for _ in range(2)]
    yield clients
    for client in clients:
        client.close()
    until_answered(server)


def until_answered(server: LiveServer) -> None:
    deadline = time.monotonic() + 60
    while ask(server, "/v1/models").status_code == 503:
        assert time.monotonic() < deadline


def ask(server: LiveServer, path: str) -> httpx.Response:
    return httpx.get(server.url + path, timeout=20)  # a connection of its own


@pytest.mark.usefixtures("two_connections")
def test_a_further_one_is_told_so_and_closed(server: LiveServer) -> None:
    response = ask(server, "/v1/models")
    assert response.status_code == 503
    assert response.headers["connection"] == "close"
    assert int(response.headers["retry-after"]) >= 1
    assert response.json()["error"] == {
        "message": "this server has 2 connections open (--max-connections)",
        "type": "ServiceUnavailableError",
        "param": None,
        "code": 503,
    }
    assert ask(server, "/v1/messages").json()["error"]["type"] == "overloaded_error"


@pytest.mark.usefixtures("two_connections")
@pytest.mark.parametrize("path", ["/health", "/metrics"])
def test_probes_are_answered_all_the_same_and_hold_nothing(server: LiveServer, path: str) -> None:
    response = ask(server, path)
    assert response.status_code == 200
    assert response.headers["connection"] == "close"


def test_there_is_room_again(server: LiveServer, two_connections: list[socket.socket]) -> None:
    assert ask(server, "/v1/models").status_code == 503
    two_connections[0].close()
    until_answered(server)


@pytest.mark.usefixtures("two_connections")
def test_a_further_one_on_which_nothing_comes_is_soon_closed(
    server: LiveServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_protocol, "SURPLUS_SECONDS", 0.1)
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as client:
        assert client.recv(100) == b""


@pytest.mark.parametrize(
    ("soft", "hard", "most", "new_soft"),
    [
        (1024, 1 << 19, 4096, 4096 + 128),
        (1024, -1, 4096, 4096 + 128),
        (1 << 16, 1 << 19, 4096, 1 << 16),
        (1024, 1024, 1024 - 128, 1024),
        (1024, 2048, 2048 - 128, 2048),
        (-1, -1, 4096, -1),
        (100, 100, 1, 100),
    ],
)
def test_no_more_than_files_may_be_open(
    monkeypatch: pytest.MonkeyPatch, soft: int, hard: int, most: int, new_soft: int
) -> None:
    limits = [(soft, hard)]
    assert resource.RLIM_INFINITY == -1
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda _, new: limits.append(new))
    assert connections_that_fit(4096) == most
    assert limits[-1] == (new_soft, hard)
