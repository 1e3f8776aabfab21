"""`/tokenize` and `/detokenize`."""

from __future__ import annotations

from typing import Any

import pytest
from support.fake_engine import byte_tokenizer
from support.live_server import LiveServer, live_server

from octavo.server.config import ServerConfig

HI = [{"role": "user", "content": "hi"}]


def test_a_text_and_back(server: LiveServer) -> None:
    found = server.post("/tokenize", model="hash", prompt="hé").json()
    assert found == {"count": 3, "max_model_len": 256, "tokens": [104, 0xC3, 0xA9], "token_strs": None}
    assert server.post("/detokenize", tokens=found["tokens"]).json() == {"prompt": "hé"}
    assert server.post("/detokenize", tokens=[256]).json() == {"prompt": "<eos>"}
    assert server.post("/tokenize", prompt="").json()["count"] == 0
    strings = server.post("/tokenize", prompt="hi", return_token_strs=True).json()["token_strs"]
    assert strings == ["h", "i"]


def test_a_conversation_is_what_an_answer_would_begin_with(server: LiveServer) -> None:
    tokens = server.post("/tokenize", messages=HI).json()["tokens"]
    assert byte_tokenizer().decode(tokens) == "user: hi\nassistant:"
    answer = server.post("/v1/chat/completions", messages=HI, max_tokens=1, return_token_ids=True).json()
    assert answer["prompt_token_ids"] == tokens


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/tokenize", {}, "prompt"),
        ("/tokenize", {"prompt": "x", "messages": HI}, "prompt"),
        ("/tokenize", {"prompt": "x", "chat_template": "y"}, "chat_template"),
        ("/tokenize", {"messages": HI, "chat_template": "y"}, "chat_template"),
        ("/tokenize", {"messages": [{"role": "tool", "content": "x"}]}, "messages[0]"),
        ("/tokenize", {"prompt": 5}, "prompt"),
        ("/detokenize", {}, "tokens"),
        ("/detokenize", {"tokens": [257]}, "tokens"),
        ("/detokenize", {"tokens": [-1]}, "tokens"),
        ("/detokenize", {"tokens": [2**70]}, "tokens"),
    ],
)
def test_what_can_not_be(server: LiveServer, path: str, body: dict[str, Any], param: str) -> None:
    response = server.post(path, **body)
    assert response.status_code == 400, response.text
    assert param in (response.json()["error"]["param"] or response.json()["error"]["message"])


def test_they_want_a_key_too() -> None:
    with live_server(ServerConfig(api_key=("key",))) as server:
        for path in ("/tokenize", "/detokenize"):
            assert server.post(path, prompt="x").status_code == 401
