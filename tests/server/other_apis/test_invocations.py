"""`/invocations` is whichever of the other routes the body is for."""

from __future__ import annotations

import json
from typing import Any

import pytest
from support.live_server import MODEL, LiveServer

HI = [{"role": "user", "content": "hi"}]


def text_of(events: str) -> str:
    chunks = [line.removeprefix("data: ") for line in events.splitlines() if line.startswith("data: {")]
    return "".join(json.loads(chunk)["choices"][0]["text"] for chunk in chunks)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"messages": HI, "max_tokens": 5, "seed": 1}),
        ("/v1/completions", {"prompt": "x", "max_tokens": 5, "seed": 1}),
        ("/v1/completions", {"prompt": "x", "max_tokens": 5, "seed": 1, "stream": True}),
        ("/v1/chat/completions", {"messages": HI, "temprature": 1}),
        ("/v1/completions", {"prompt": "x", "model": "other"}),
    ],
)
def test_it_answers_like_the_other_route(server: LiveServer, path: str, body: dict[str, Any]) -> None:
    headers = {"X-Request-Id": "same"}
    expected = server.http.post(path, json=body, headers=headers)
    found = server.http.post("/invocations", json=body, headers=headers)
    assert found.status_code == expected.status_code
    if not body.get("stream") and found.status_code == 200:
        assert found.json()["choices"] == expected.json()["choices"]
    elif found.status_code != 200:
        assert found.json() == expected.json()
    else:
        assert text_of(found.text) == text_of(expected.text) != ""


def test_a_response(server: LiveServer) -> None:
    found = server.post("/invocations", model=MODEL, input="hi", max_output_tokens=2)
    assert found.json()["object"] == "response"


@pytest.mark.parametrize("content", [b"{}", b"[]", b"x", b'{"text": 1}', b"\xff", b"[" * 100_000])
def test_what_is_none_of_them(server: LiveServer, content: bytes) -> None:
    response = server.http.post("/invocations", content=content, headers={"Content-Type": "application/json"})
    assert response.status_code == 400
    assert response.json()["error"]["type"] == "BadRequestError"
