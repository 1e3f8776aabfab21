"""Ollama's API through its own client and by hand."""

from __future__ import annotations

from typing import Any

import ollama
import pytest
from support.fake_engine import byte_tokenizer
from support.live_server import LiveServer, live_server

from octavo.server.config import ServerConfig

USER = {"role": "user", "content": "hi"}
OPTIONS = {"temperature": 0, "num_predict": 12, "num_ctx": 128, "num_thread": 4, "seed": -1}


@pytest.fixture(scope="module")
def client(server: LiveServer) -> ollama.Client:
    return ollama.Client(host=server.url, timeout=20)


def prompt_of(server: LiveServer) -> str:
    return byte_tokenizer().decode(server.engine.fake_client.requests[-1].prompt_token_ids)


def test_a_chat_whole_and_streamed(server: LiveServer, client: ollama.Client) -> None:
    whole = client.chat(model="hash:latest", messages=[USER], options=OPTIONS)
    assert prompt_of(server) == "user: hi\nassistant:"
    assert (whole.done, whole.done_reason, whole.eval_count) == (True, "length", 12)
    assert whole.prompt_eval_count == len(prompt_of(server))
    parts = list(client.chat(model="hash", messages=[USER], options=OPTIONS, stream=True))
    assert "".join(part.message.content for part in parts) == whole.message.content
    assert [part.done for part in parts] == [False] * (len(parts) - 1) + [True]


def test_a_question_whole_and_streamed(server: LiveServer, client: ollama.Client) -> None:
    whole = client.generate(model="hash", prompt="hi", system="be brief", options=OPTIONS)
    assert prompt_of(server) == "system: be brief\nuser: hi\nassistant:"
    stream = client.generate(model="hash", prompt="hi", system="be brief", options=OPTIONS, stream=True)
    assert "".join(part.response for part in stream) == whole.response


def test_what_is_served_is_listed(server: LiveServer, client: ollama.Client) -> None:
    assert [model.model for model in client.list().models] == ["hash"]
    assert server.http.get("/api/version").json()["version"]


def test_what_runs_and_what_it_is(server: LiveServer, client: ollama.Client) -> None:
    [running] = client.ps().models
    assert (running.model, running.context_length) == ("hash", 256)
    shown = client.show("hash:latest")
    assert shown.template == byte_tokenizer().chat_template
    assert shown.capabilities == ["completion"]
    assert 256 in (shown.modelinfo or {}).values()
    with pytest.raises(ollama.ResponseError, match="not served here"):
        client.show("other")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"options": {"num_ctx": 4096}}, "num_ctx"),
        ({"options": {"mirostat": 1}}, "mirostat"),
        ({"options": {"temperature": "hot"}}, "temperature"),
        ({"options": {"top_p": 7}}, "top_p"),
        ({"options": {"num_predict": 0}}, "max_tokens"),
        ({"format": "yaml"}, "format"),
        ({"format": {"type": "strin"}}, "format"),
        ({"think": True}, "think"),
        ({"tools": [{}]}, "tools"),
        ({"messages": []}, "messages"),
        ({"messages": [{**USER, "images": ["x"]}]}, "images"),
        ({"colour": 1}, "colour"),
    ],
)
def test_errors_have_ollama_s_shape(server: LiveServer, change: dict[str, Any], says: str) -> None:
    response = server.post("/api/chat", **{"model": "hash", "messages": [USER], **change})
    assert response.status_code == 400, response.text
    assert set(response.json()) == {"error"}
    assert says in response.json()["error"]


def test_another_model_is_not_found(client: ollama.Client) -> None:
    with pytest.raises(ollama.ResponseError, match="not served here"):
        client.chat(model="other", messages=[USER])


def test_it_wants_a_key_too() -> None:
    with live_server(ServerConfig(api_key=("key",))) as server:
        assert server.post("/api/chat", model="hash", messages=[USER]).status_code == 401
