"""API keys guard /v1, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.live_server import LiveServer, live_server

from octavo.server.config import ServerConfig


@pytest.fixture(scope="module")
def guarded() -> Iterator[LiveServer]:
    with live_server(ServerConfig(api_key=("first", "second"))) as server:
        yield server


def status(server: LiveServer, path: str, authorization: str | None) -> int:
    headers = {} if authorization is None else {"Authorization": authorization}
    return server.http.get(path, headers=headers).status_code


@pytest.mark.parametrize("key", ["first", "second"])
def test_each_key_opens(guarded: LiveServer, key: str) -> None:
    assert status(guarded, "/v1/models", f"Bearer {key}") == 200
    assert status(guarded, "/v1/models", f"bearer {key}") == 200


@pytest.mark.parametrize(
    "authorization", [None, "", "Bearer", "Bearer third", "Bearer firs", "Bearer firstfirst"]
)
def test_nothing_else_does(guarded: LiveServer, authorization: str | None) -> None:
    assert status(guarded, "/v1/models", authorization) == 401


@pytest.mark.parametrize("authorization", ["first", "Basic first", "Bearer first second"])
def test_nor_does_another_scheme(guarded: LiveServer, authorization: str) -> None:
    assert status(guarded, "/v1/models", authorization) == 401


def test_the_refusal_has_the_usual_shape(guarded: LiveServer) -> None:
    response = guarded.post("/v1/completions", prompt="x")
    assert response.status_code == 401
    assert response.headers["www-authenticate"] == "Bearer"
    assert response.json()["error"]["type"] == "AuthenticationError"
    assert response.json()["error"]["code"] == 401


def test_the_cache_is_not_reset_without_a_key(guarded: LiveServer) -> None:
    assert guarded.http.post("/reset_prefix_cache").status_code == 401
    key = {"Authorization": "Bearer first"}
    assert guarded.http.post("/reset_prefix_cache", headers=key).status_code == 200


def test_probes_and_metrics_are_open(guarded: LiveServer) -> None:
    for path in ("/health", "/ping", "/version", "/metrics"):
        assert status(guarded, path, None) == 200


def test_a_browser_may_ask_before_it_sends_its_key(guarded: LiveServer) -> None:
    headers = {
        "Origin": "https://app.example",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type",
    }
    response = guarded.http.options("/v1/chat/completions", headers=headers)
    assert response.status_code == 200
    assert response.headers["access-control-allow-origin"] == "*"
    refused = guarded.http.get("/v1/models", headers={"Origin": "https://app.example"})
    assert refused.status_code == 401
    assert refused.headers["access-control-allow-origin"] == "*"


def test_behind_a_proxy_that_strips_a_prefix() -> None:
    with live_server(ServerConfig(api_key=("key",), root_path="/llm")) as server:
        assert status(server, "/v1/models", None) == 401
        assert status(server, "/v1/models", "Bearer key") == 200
        assert status(server, "/health", None) == 200


def test_without_keys_all_is_open() -> None:
    with live_server() as server:
        assert status(server, "/v1/models", None) == 200
