"""The live feed: what it says, to whom, how often, and that it costs nothing unwatched."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from support.live_server import LiveServer, live_server

from octavo.observe import live_feed
from octavo.server.config import ServerConfig

PROMPT = "It was a bright cold day in April, and the clocks were striking thirteen."
Events = Iterator[dict[str, Any]]


@contextmanager
def watching(server: LiveServer, **headers: str) -> Iterator[Events]:
    """The events as they come."""

    def events(response: httpx.Response) -> Events:
        for line in response.iter_lines():
            if line.startswith("data: "):
                yield json.loads(line[6:])

    with server.http.stream("GET", "/octavo/live", headers=headers) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        yield events(response)


def wait_for(events: Events, kind: str, what: Callable[[dict[str, Any]], Any] = bool) -> dict[str, Any]:
    """The first event of a type for which `what` holds."""
    deadline = time.monotonic() + 60
    for event in events:
        if event["type"] == kind and what(event):
            return event
        assert time.monotonic() < deadline, kind
    raise AssertionError("the stream has ended")


@contextmanager
def completing(server: LiveServer, max_tokens: int = 150) -> Iterator[None]:
    """A completion that is on its way, until the block ends."""
    body = {
        "prompt": PROMPT,
        "max_tokens": max_tokens,
        "ignore_eos": True,
        "stream": True,
        "request_id": "mine",
    }
    with (
        httpx.Client(base_url=server.url, timeout=60) as http,
        http.stream("POST", "/v1/completions", json=body) as r,
    ):
        lines = r.iter_lines()
        next(lines)
        yield


@pytest.fixture(scope="module")
def slow() -> Iterator[LiveServer]:
    with live_server(step_seconds=0.05) as server:
        yield server


def test_a_watcher_sees_a_request_come_and_go(slow: LiveServer) -> None:
    with watching(slow) as events:
        hello = next(events)
        assert (hello["type"], hello["models"], hello["num_blocks"]) == ("hello", ["hash"], 128)
        assert (hello["block_size"], hello["max_model_len"], hello["shows_text"]) == (16, 256, False)
        assert wait_for(events, "state")["num_running"] == 0
        with completing(slow):
            state = wait_for(
                events, "state", lambda state: [each["phase"] for each in state["running"]] == ["decode"]
            )
            assert state["num_running"] == 1
            [sequence] = state["running"]
            assert sequence["request_id"].startswith("cmpl-mine")
            assert sequence["num_prompt"] == len(PROMPT)
            assert sequence["num_blocks"] == len(sequence["cells"]) == -(-sequence["num_computed"] // 16)
            holders = base64.b64decode(state["holders"])
            assert [cell for cell, count in enumerate(holders) if count] == sorted(sequence["cells"])
            assert state["num_free"] == 128 - sequence["num_blocks"]
            grown = wait_for(
                events, "state", lambda state: state["running"][0]["num_blocks"] > len(sequence["cells"])
            )
            assert grown["running"][0]["cells"][: len(sequence["cells"])] == sequence["cells"]
            tree = wait_for(events, "tree", lambda tree: tree["nodes"])
            assert {node["text"] for node in tree["nodes"]} == {""}
            second = wait_for(events, "second", lambda second: second["generated"] > 0)
            assert 0 < second["gap"]["count"] <= second["generated"]
            assert 0.05 <= second["gap"]["median"] <= second["gap"]["p95"]
        state = wait_for(events, "state", lambda state: state["num_running"] == 0)
        assert (state["num_free"], state["running"]) == (128, [])
        assert state["num_known"] == sum(base64.b64decode(state["known"])) > 0


def test_nobody_watches_nothing_is_asked(slow: LiveServer) -> None:
    deadline = time.monotonic() + 60
    while slow.engine._descriptions or slow.http_server.server_state.tasks:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    asked = len(slow.engine.fake_client.descriptions)
    with completing(slow):
        time.sleep(0.5)
    assert len(slow.engine.fake_client.descriptions) == asked
    with watching(slow) as events:
        wait_for(events, "state")
        assert len(slow.engine.fake_client.descriptions) > asked


def test_seconds_that_were_watched_are_told_to_the_next(slow: LiveServer) -> None:
    with watching(slow) as events:
        second = wait_for(events, "second")
    with watching(slow) as events:
        assert second in next(events)["seconds"]


def test_an_idle_engine_is_asked_rarely_and_nothing_is_sent(slow: LiveServer) -> None:
    with watching(slow) as events:
        wait_for(events, "state")
        asked = len(slow.engine.fake_client.descriptions)
        kinds = [next(events)["type"] for _ in range(3)]
        assert kinds in (["second"] * 3, ["tree", "second", "second"])
        assert len(slow.engine.fake_client.descriptions) - asked <= 2


def test_no_more_may_watch_than_the_feed_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_feed, "MAX_WATCHERS", 1)
    # A server of its own: on a shared one, a watcher of an earlier test may not have been missed yet.
    with live_server() as server, watching(server) as events:
        next(events)
        response = server.http.get("/octavo/live")
        assert response.status_code == 503
        assert "1 watch already" in response.json()["error"]["message"]


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_other_sites_may_not_look(slow: LiveServer, site: str) -> None:
    response = slow.http.get("/octavo/live", headers={"Sec-Fetch-Site": site})
    assert response.status_code == 403


def test_words_are_shown_only_where_the_flag_says_so() -> None:
    with live_server(ServerConfig(page_show_text=True)) as server:
        server.post("/v1/completions", prompt=PROMPT, max_tokens=4).raise_for_status()
        with watching(server) as events:
            assert next(events)["shows_text"]
            [node] = wait_for(events, "tree")["nodes"]
            assert node == {"parent": -1, "num_blocks": 4, "num_holders": 0, "cell": 0, "text": PROMPT[:16]}
        assert all(request.tokens for request in server.engine.fake_client.descriptions)


def test_without_the_flag_no_token_leaves_the_engine(slow: LiveServer) -> None:
    with watching(slow) as events:
        wait_for(events, "tree")
    assert not any(request.tokens for request in slow.engine.fake_client.descriptions)


def test_it_wants_the_key() -> None:
    with live_server(ServerConfig(api_key=("secret",))) as server:
        assert server.http.get("/octavo/live").status_code == 401
        assert server.http.get("/").status_code == 200
        with watching(server, Authorization="Bearer secret") as events:
            assert next(events)["type"] == "hello"


def test_a_dead_engine_is_told(slow: LiveServer) -> None:
    with watching(slow) as events:
        wait_for(events, "state")
        client, slow.engine._client = slow.engine._client, None
        wait_for(events, "down")
        slow.engine._client = client
        wait_for(events, "state")


def test_a_watcher_does_not_hold_up_the_end_of_the_server() -> None:
    with live_server(ServerConfig(shutdown_timeout=600)) as server:
        ready, ended = threading.Event(), threading.Event()

        def watch() -> None:
            with watching(server) as events:
                next(events)
                ready.set()
                for _ in events:
                    pass
            ended.set()

        thread = threading.Thread(target=watch)
        thread.start()
        assert ready.wait(60)
        server.http_server.should_exit = True
        assert ended.wait(60)
        thread.join()


def test_it_can_be_switched_off() -> None:
    with live_server(ServerConfig(disable_page=True)) as server:
        for path in ("/", "/page/page.css", "/octavo/live"):
            assert server.http.get(path).status_code == 404
