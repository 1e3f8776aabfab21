"""What a client sees of the prefix cache."""

from __future__ import annotations

from typing import Any

import pytest
from support.live_server import LiveServer


def cached(server: LiveServer, prompt: list[int], **body: Any) -> int:
    response = server.post("/v1/completions", prompt=prompt, max_tokens=1, seed=0, **body)
    assert response.status_code == 200, response.text
    return response.json()["usage"]["prompt_tokens_details"]["cached_tokens"]


def test_cached_tokens_are_exact(server: LiveServer) -> None:
    prompt = list(range(100, 160))
    assert cached(server, prompt) == 0
    assert cached(server, prompt) == 59
    assert cached(server, [*prompt[:37], 7, 8]) == 37
    assert cached(server, prompt, cache_salt="mine") == 0
    assert cached(server, prompt, cache_salt="mine") == 59


def test_generated_tokens_are_found_again(server: LiveServer) -> None:
    prompt = list(range(60, 80))
    body = {"prompt": prompt, "max_tokens": 30, "seed": 1, "ignore_eos": True, "return_token_ids": True}
    [choice] = server.post("/v1/completions", **body).json()["choices"]
    # The last token was given out and never computed.
    assert cached(server, prompt + choice["token_ids"] + [1, 2]) == 49


def test_reset(server: LiveServer) -> None:
    prompt = list(range(200, 250))
    cached(server, prompt)
    assert cached(server, prompt) == 49
    response = server.http.post("/reset_prefix_cache")
    assert (response.status_code, response.content) == (200, b"")
    assert cached(server, prompt) == 0


@pytest.mark.parametrize("body", [{"skip_reading_prefix_cache": True}, {"prompt_logprobs": 0}])
def test_reading_is_skipped_on_request(server: LiveServer, body: dict[str, Any]) -> None:
    prompt = list(range(150, 199))
    cached(server, prompt)
    assert cached(server, prompt, **body) == 0
    assert cached(server, prompt) == 48
