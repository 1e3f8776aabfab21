"""Every size that a request can choose has a bound, and the server goes on answering others meanwhile."""

from __future__ import annotations

import socket
import threading
from typing import Any

import httpx
import pytest
from support.live_server import MODEL, LiveServer, live_server

from octavo.server.config import ServerConfig
from octavo.server.requests import logprob_limit, prompts

HI = [{"role": "user", "content": "hi"}]
SLOW_TEMPLATE = (
    "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}"
    "{% if messages[0].content == 'slow' %}{{ f(60) }}{% endif %}{{ messages[0].content }}"
)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"logprobs": 21}, "logprobs"),
        ({"logprobs": -1}, "logprobs"),
        ({"prompt_logprobs": 21}, "prompt_logprobs"),
        ({"prompt_logprobs": -1}, "prompt_logprobs"),
        ({"user": "x" * 1025}, "user"),
        ({"prompt": "x" * ((1 << 23) + 1)}, "prompt"),
        ({"prompt": [1] * ((1 << 21) + 1)}, "prompt"),
        ({"stop_token_ids": [1] * 1025}, "stop_token_ids"),
        ({"allowed_token_ids": [1] * ((1 << 20) + 1)}, "allowed_token_ids"),
    ],
)
def test_lists_and_counts(server: LiveServer, body: dict[str, Any], param: str) -> None:
    response = server.post("/v1/completions", **{"prompt": "x", **body})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param


def test_what_is_too_long_is_refused_before_the_rest_is_read(
    server: LiveServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prompts, "MAX_TEXT_CHARS", 1000)
    read: list[str] = []
    tokenizer = server.engine.tokenizer
    encode_batch = tokenizer.encode_batch

    def counted(texts: list[str], add_special_tokens: bool = True) -> list[list[int]]:
        read.extend(texts)
        return encode_batch(texts, add_special_tokens)

    monkeypatch.setattr(tokenizer, "encode_batch", counted)
    response = server.post("/v1/completions", prompt=["x" * 600, *["y" * 600] * 9])
    assert response.status_code == 400
    assert response.json()["error"]["message"].startswith(
        "prompt has 600 tokens; this model takes at most 256"
    )
    assert len(read) == 1
    # Truncated they are all read, in turn.
    read.clear()
    body = {"prompt": ["x" * 600, *["y" * 600] * 3], "truncate_prompt_tokens": 5, "max_tokens": 1}
    assert server.post("/v1/completions", **body).json()["usage"]["prompt_tokens"] == 20
    assert len(read) == 4


@pytest.mark.parametrize(
    ("path", "body", "name"),
    [
        ("/v1/chat/completions", {"messages": HI * 65_537}, "messages"),
        ("/v1/responses", {"input": HI * 65_537}, "input"),
        ("/v1/messages", {"model": MODEL, "max_tokens": 1, "messages": HI * 65_537}, "messages"),
        ("/api/chat", {"model": MODEL, "messages": HI * 65_537}, "messages"),
    ],
)
def test_messages(server: LiveServer, path: str, body: dict[str, Any], name: str) -> None:
    response = server.post(path, **body)
    assert response.status_code == 400
    assert f"{name} takes at most 65536 messages" in response.text


def test_the_top_logprobs_of_a_chat(server: LiveServer) -> None:
    response = server.post("/v1/chat/completions", messages=HI, logprobs=True, top_logprobs=21)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "top_logprobs"
    assert "--max-logprobs" in response.json()["error"]["message"]
    response = server.post("/v1/chat/completions", messages=HI, logprobs=True, top_logprobs=20, max_tokens=2)
    assert [len(each["top_logprobs"]) for each in response.json()["choices"][0]["logprobs"]["content"]] == [
        20,
        20,
    ]


def test_the_whole_vocabulary_where_the_operator_allows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with live_server(ServerConfig(max_logprobs=-1)) as server:
        body: dict[str, Any] = {"prompt": "abc", "max_tokens": 2, "logprobs": -1, "prompt_logprobs": -1}
        [choice] = server.post("/v1/completions", **body).json()["choices"]
        assert len(choice["prompt_logprobs"][1]) == 257
        # Three tokens of a prompt and two more, at 257 each.
        monkeypatch.setattr(logprob_limit, "MAX_ENTRIES", 5 * 257)
        assert server.post("/v1/completions", **body).status_code == 200
        refused = server.post("/v1/completions", **{**body, "max_tokens": 3})
        assert refused.status_code == 400
        assert str(5 * 257) in refused.json()["error"]["message"]
        refused = server.post("/v1/completions", **{**body, "n": 2})
        assert refused.status_code == 400


def test_headers(server: LiveServer) -> None:
    most = ServerConfig().h11_max_incomplete_event_size
    assert server.http.get("/v1/models", headers={"X-Long": "x" * (most // 2)}).status_code == 200
    response = server.http.get("/v1/models", headers={"X-Long": "x" * most})
    assert response.status_code == 431
    assert response.json()["error"]["type"] == "HeadersTooLargeError"
    assert server.http.get("/v1/models?" + "x" * 60_000, headers={"X": "x" * 6000}).status_code == 431
    many = [("X-Many", str(number)) for number in range(300)]
    assert server.http.get("/v1/models", headers=many).status_code == 431


def test_headers_that_do_not_end(server: LiveServer) -> None:
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as client:
        client.sendall(b"GET / HTTP/1.1\r\n")
        answer = b""
        try:
            for _ in range(200):
                client.sendall(b"X-Long: " + b"x" * 8000 + b"\r\n")
            answer = client.recv(4096)
        except OSError:
            return  # The server hung up while we wrote.
        assert answer == b"" or answer.startswith(b"HTTP/1.1 4")


def test_a_slow_template_is_ended_and_holds_up_nobody() -> None:
    config = ServerConfig(chat_template=SLOW_TEMPLATE, chat_template_timeout=2.0)
    answers: list[httpx.Response] = []
    with live_server(config) as server:
        slow = [{"role": "user", "content": "slow"}]
        client = threading.Thread(
            target=lambda: answers.append(server.post("/v1/chat/completions", model=MODEL, messages=slow))
        )
        client.start()
        num_answered = 0
        while client.is_alive():
            assert server.post("/v1/chat/completions", messages=HI, max_tokens=1).status_code == 200
            num_answered += 1
        client.join(20)
    [response] = answers
    assert response.status_code == 400
    assert response.json()["error"]["message"] == "chat template: it took too long"
    assert num_answered > 1


def test_a_template_variable_that_would_hide_an_argument(server: LiveServer) -> None:
    response = server.post("/v1/chat/completions", messages=HI, chat_template_kwargs={"self": 1})
    assert response.status_code == 400


def test_many_tokens_to_write_out(server: LiveServer) -> None:
    response = server.post("/detokenize", tokens=[65] * ((1 << 20) + 1))
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "tokens"
    assert server.post("/detokenize", tokens=[65] * 5000).json()["prompt"] == "A" * 5000
