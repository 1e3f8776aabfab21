"""The options of a request arrive at the engine whole, from each route and after each way of running it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from support.live_server import LiveServer, live_server

from octavo.config import EngineConfig
from octavo.request_options import RequestOptions
from octavo.server.config import ServerConfig

GIVEN: dict[str, Any] = {"priority": -3, "cache_salt": "salt", "user": "someone"}
HI = [{"role": "user", "content": "hi"}]
ROUTES: list[tuple[str, dict[str, Any]]] = [
    ("/v1/completions", {"prompt": "hi", "max_tokens": 2}),
    ("/v1/completions", {"prompt": "hi", "max_tokens": 2, "n": 2}),
    ("/v1/completions", {"prompt": "hi", "max_tokens": 2, "n": 2, "use_beam_search": True}),
    ("/v1/chat/completions", {"messages": HI, "max_tokens": 2, "stream": True}),
    ("/v1/responses", {"input": "hi", "max_output_tokens": 2}),
]


@pytest.fixture(scope="module")
def by_priority() -> Iterator[LiveServer]:
    with live_server(ServerConfig(), engine=EngineConfig(scheduling_policy="priority")) as server:
        yield server


@pytest.mark.parametrize(("path", "body"), ROUTES)
def test_a_body_s_options_arrive_whole(by_priority: LiveServer, path: str, body: dict[str, Any]) -> None:
    requests = by_priority.engine.fake_client.requests
    before = len(requests)
    assert by_priority.post(path, **body, **GIVEN).status_code == 200
    arrived = [request.options for request in requests[before:]]
    assert len(arrived) >= body.get("n", 1)
    for options in arrived:
        assert bool(options.group) == ("n" in body)
        assert msgspec.structs.replace(options, group="") == RequestOptions(**GIVEN)


def test_a_client_can_not_say_what_is_octavo_s_own(by_priority: LiveServer) -> None:
    response = by_priority.post("/v1/completions", prompt="hi", group="mine")
    assert (response.status_code, response.json()["error"]["param"]) == (400, "group")
