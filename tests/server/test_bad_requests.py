"""Whatever is wrong with a request: a 4xx that names the field, in one shape, and a server that lives on."""

from __future__ import annotations

from typing import Any

import openai
import pytest
from support.live_server import LiveServer, live_server

from octavo.server.config import ServerConfig

CHAT = "/v1/chat/completions"
HI = [{"role": "user", "content": "hi"}]

BAD_COMPLETIONS: list[tuple[dict[str, Any], str | None]] = [
    ({}, "prompt"),
    ({"prompt": "x", "temprature": 1}, "temprature"),
    ({"prompt": "x", "temperature": "hot"}, "temperature"),
    ({"prompt": "x", "temperature": -1}, "temperature"),
    ({"prompt": "x", "temperature": 1e300}, "temperature"),
    ({"prompt": "x", "top_p": 0}, "top_p"),
    ({"prompt": "x", "top_k": -2}, "top_k"),
    ({"prompt": "x", "top_k": 1.5}, "top_k"),
    ({"prompt": "x", "min_p": 2}, "min_p"),
    ({"prompt": "x", "n": 0}, "n"),
    ({"prompt": "x", "n": 1000}, "n"),
    ({"prompt": "x", "n": True}, "n"),
    ({"prompt": ["x"] * 40, "n": 128}, "n"),
    ({"prompt": ["x"] * 1025}, "prompt"),
    ({"prompt": "x", "max_tokens": 0}, "max_tokens"),
    ({"prompt": "x", "max_tokens": -5}, "max_tokens"),
    ({"prompt": "x", "max_tokens": 256}, "max_tokens"),
    ({"prompt": "x", "max_tokens": 10**30}, "max_tokens"),
    ({"prompt": "x", "min_tokens": 9, "max_tokens": 3}, "min_tokens"),
    ({"prompt": "x", "seed": 2**63}, "seed"),
    ({"prompt": "x", "presence_penalty": 3}, "presence_penalty"),
    ({"prompt": "x", "repetition_penalty": 0}, "repetition_penalty"),
    ({"prompt": "x", "logprobs": 101}, "logprobs"),
    ({"prompt": "x", "logprobs": True}, "logprobs"),
    ({"prompt": "x", "prompt_logprobs": 1, "stream": True}, "prompt_logprobs"),
    ({"prompt": "x", "echo": True, "logprobs": 1, "stream": True, "n": 2}, "echo"),
    ({"prompt": "x", "bad_words": [""]}, "bad_words"),
    ({"prompt": "x", "bad_words": ["a"] * 1025}, "bad_words"),
    ({"prompt": "x", "length_penalty": 0.5}, "length_penalty"),
    ({"prompt": "x", "prompt_embeds": "AAAA"}, "prompt_embeds"),
    ({"prompt": "x", "response_format": {"type": "json"}}, "response_format"),
    ({"prompt": "x", "response_format": {}}, "response_format"),
    ({"prompt": "x", "response_format": {"type": "json_object", "schema": {}}}, "response_format"),
    ({"prompt": "x", "response_format": {"type": "json_schema", "json_schema": {}}}, "response_format"),
    ({"prompt": "x", "structured_outputs": {}}, "structured_outputs"),
    ({"prompt": "x", "structured_outputs": {"json": {}, "regex": "a"}}, "structured_outputs"),
    ({"prompt": "x", "structured_outputs": {"regexp": "a"}}, "structured_outputs"),
    ({"prompt": "x", "structured_outputs": {"regex": "a("}}, "structured_outputs"),
    ({"prompt": "x", "structured_outputs": {"regex": "a" * 40_000}}, "structured_outputs"),
    ({"prompt": "x", "structured_outputs": {"regex": "a"}, "ignore_eos": True}, "ignore_eos"),
    ({"prompt": "x", "structured_outputs": {"regex": "a"}, "use_beam_search": True}, "structured_outputs"),
    ({"prompt": "x", "structured_outputs": {"regex": "a"}, "guided_regex": "a"}, "guided_regex"),
    ({"prompt": "x", "guided_choice": []}, "guided_choice"),
    ({"prompt": "x", "guided_choice": ["a"], "use_beam_search": True}, "guided_choice"),
    ({"prompt": "x", "guided_regex": "(?=a)"}, "guided_regex"),
    ({"prompt": "x", "guided_grammar": "root ::= ("}, "guided_grammar"),
    ({"prompt": "x", "guided_json": {"type": "strin"}}, "guided_json"),
    ({"prompt": "x", "guided_json": "{"}, "guided_json"),
    ({"prompt": "x", "guided_json": {}, "guided_decoding_backend": "outlines"}, "guided_decoding_backend"),
    ({"prompt": "x", "guided_regex": "a", "guided_whitespace_pattern": " "}, "guided_whitespace_pattern"),
    ({"prompt": "x", "structural_tag": "{}"}, "structural_tag"),
    ({"prompt": "x", "kv_transfer_params": {"a": 1}}, "kv_transfer_params"),
    ({"prompt": "x", "vllm_xargs": {"a": 1}}, "vllm_xargs"),
    ({"prompt": "x", "logits_processors": ["a.b"]}, "logits_processors"),
    ({"prompt": "x", "stop": [""]}, "stop"),
    ({"prompt": "x", "stop": ["a"] * 65}, "stop"),
    ({"prompt": "x", "stop": 1}, "stop"),
    ({"prompt": "x", "stop_token_ids": [-1]}, "stop_token_ids"),
    ({"prompt": "x", "allowed_token_ids": []}, "allowed_token_ids"),
    ({"prompt": "x", "allowed_token_ids": [9999]}, "allowed_token_ids"),
    ({"prompt": "x", "logit_bias": {"word": 1}}, "logit_bias"),
    ({"prompt": "x", "logit_bias": {"1": 101}}, "logit_bias"),
    ({"prompt": "x", "logit_bias": {"9999": 1}}, "logit_bias"),
    ({"prompt": "x", "suffix": "y"}, "suffix"),
    ({"prompt": "x", "best_of": 3, "stream": True}, "best_of"),
    ({"prompt": "x", "best_of": 2, "n": 3}, "best_of"),
    ({"prompt": "x", "best_of": 1000}, "best_of"),
    ({"prompt": "x", "stream_options": {"include_usage": True}}, "stream_options"),
    ({"prompt": "x", "stream": True, "stream_options": {"usage": True}}, "stream_options.usage"),
    ({"prompt": "x", "priority": 2**40}, "priority"),
    ({"prompt": "x", "cache_salt": ""}, "cache_salt"),
    ({"prompt": "x", "request_id": "r" * 300}, "request_id"),
    ({"prompt": "x", "truncate_prompt_tokens": 0}, "truncate_prompt_tokens"),
    ({"prompt": ""}, "prompt"),
    ({"prompt": []}, "prompt"),
    ({"prompt": [[]]}, "prompt"),
    ({"prompt": None}, "prompt"),
    ({"prompt": 5}, "prompt"),
    ({"prompt": {"text": "x"}}, "prompt"),
    ({"prompt": ["x", 5]}, "prompt"),
    ({"prompt": [5, "x"]}, "prompt"),
    ({"prompt": [[5], "x"]}, "prompt"),
    ({"prompt": [[5.5]]}, "prompt[0][0]"),
    ({"prompt": [257]}, "prompt"),
    ({"prompt": [-1]}, "prompt"),
    ({"prompt": [2**70]}, "prompt"),
    ({"prompt": "x" * 256}, "prompt"),
    ({"prompt": "x" * 250, "max_tokens": 7}, "max_tokens"),
]

BAD_CHATS: list[tuple[dict[str, Any], str | None]] = [
    ({}, "messages"),
    ({"messages": []}, "messages"),
    ({"messages": "hi"}, "messages"),
    ({"messages": [{"content": "hi"}]}, "messages[0].role"),
    ({"messages": [{"role": "user"}]}, "messages"),
    ({"messages": [{"role": "usr", "content": "hi"}]}, "messages[0]"),
    ({"messages": [{"role": "user", "content": "hi", "colour": "red"}]}, "messages[0].colour"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}, "messages"),
    ({"messages": [{"role": "tool", "content": "5", "tool_call_id": "x"}]}, "messages[0]"),
    ({"messages": HI, "tools": [{"type": "function"}]}, "tools"),
    ({"messages": HI, "tool_choice": "required"}, "tool_choice"),
    ({"messages": HI, "response_format": {"type": "grammar"}}, "response_format"),
    ({"messages": HI, "functions": [{}]}, "functions"),
    ({"messages": HI, "store": True}, "store"),
    ({"messages": HI, "modalities": ["audio"]}, "modalities"),
    ({"messages": HI, "top_logprobs": 2}, "top_logprobs"),
    ({"messages": HI, "logprobs": True, "top_logprobs": 101}, "top_logprobs"),
    ({"messages": HI, "logprobs": 2}, "logprobs"),
    ({"messages": HI, "max_completion_tokens": 0}, "max_completion_tokens"),
    ({"messages": HI, "max_completion_tokens": 256}, "max_completion_tokens"),
    ({"messages": HI, "chat_template": "x"}, "chat_template"),
    ({"messages": HI, "chat_template_kwargs": {"messages": []}}, "chat_template_kwargs"),
    (
        {"messages": HI, "add_generation_prompt": True, "continue_final_message": True},
        "continue_final_message",
    ),
    ({"messages": [{"role": "user", "content": "x" * 256}]}, "messages"),
    ({"messages": HI, "mm_processor_kwargs": {"a": 1}}, "mm_processor_kwargs"),
    ({"messages": HI, "documents": "x"}, "documents"),
    ({"messages": HI, "guided_json": {"type": "objekt"}}, "guided_json"),
    ({"messages": HI, "response_format": {"type": "json_schema", "json_schema": {}}}, "response_format"),
]


def check_error(response: Any, status: int, kind: str) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    assert set(body) == {"error"}
    error: dict[str, Any] = body["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["code"] == status
    assert error["type"] == kind
    assert error["message"]
    assert "\n" not in error["message"]
    return error


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("body", "param"), BAD_COMPLETIONS)
def test_bad_completions(server: LiveServer, body: dict[str, Any], param: str | None, stream: bool) -> None:
    response = server.post("/v1/completions", **({"stream": True, **body} if stream else body))
    if stream and "stream_options" in body and "usage" not in body["stream_options"]:
        assert response.status_code == 200  # Only wrong without stream.
        return
    error = check_error(response, 400, "BadRequestError")
    assert error["param"] == param
    assert param is None or error["message"].startswith(param) or param in error["message"]


@pytest.mark.parametrize(("body", "param"), BAD_CHATS)
def test_bad_chats(server: LiveServer, body: dict[str, Any], param: str | None) -> None:
    error = check_error(server.post(CHAT, **body), 400, "BadRequestError")
    assert error["param"] == param


@pytest.mark.parametrize("path", ["/v1/completions", CHAT])
@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"nonsense",
        b"[]",
        b'"text"',
        b"null",
        b"\x00",
        b'{"prompt": NaN}',
        b'{"prompt": "\xff"}',
        b'{"prompt": "\\ud800"}',
        b'{"chat_template_kwargs": ' + b'{"a":' * 50_000,
    ],
)
def test_bodies_that_are_no_request(server: LiveServer, path: str, content: bytes) -> None:
    response = server.http.post(path, content=content, headers={"Content-Type": "application/json"})
    check_error(response, 400, "BadRequestError")


def test_only_json_is_read(server: LiveServer) -> None:
    # A page of another site can make a browser post text/plain here without asking.
    for content_type in ("text/plain", "application/x-www-form-urlencoded", ""):
        response = server.http.post(CHAT, content=b"{}", headers={"Content-Type": content_type})
        check_error(response, 415, "UnsupportedMediaTypeError")


def test_a_typo_gets_a_hint(server: LiveServer) -> None:
    message = server.post("/v1/completions", prompt="x", temprature=1).json()["error"]["message"]
    assert message == "temprature: unknown field; did you mean temperature?"


def test_the_numbers_are_named(server: LiveServer) -> None:
    message = server.post("/v1/completions", prompt="x" * 250, max_tokens=7).json()["error"]["message"]
    assert message == "max_tokens=7 and 250 tokens of prompt are over this model's 256; ask for at most 6"


def test_another_model_is_not_found(server: LiveServer) -> None:
    for path, body in (("/v1/completions", {"prompt": "x"}), (CHAT, {"messages": HI})):
        error = check_error(server.post(path, model="gpt-4", **body), 404, "NotFoundError")
        assert error["param"] == "model"
    check_error(server.http.get("/v1/models/gpt-4"), 404, "NotFoundError")
    with pytest.raises(openai.NotFoundError):
        server.openai.completions.create(model="gpt-4", prompt="x")


def test_paths_and_methods_that_are_not_there(server: LiveServer) -> None:
    check_error(server.http.get("/nope"), 404, "NotFoundError")
    check_error(server.http.post("/v1/audio/speech", json={}), 404, "NotFoundError")
    response = server.http.get("/v1/completions")
    check_error(response, 405, "MethodNotAllowedError")
    assert response.headers["allow"] == "POST"


@pytest.mark.parametrize("path", ["/v1/embeddings", "/pooling", "/score", "/v1/rerank"])
def test_what_needs_another_kind_of_model_is_refused(server: LiveServer, path: str) -> None:
    error = check_error(server.http.post(path, json={"input": "x"}), 400, "BadRequestError")
    assert "does not support" in error["message"]


def test_a_body_that_is_too_large() -> None:
    with live_server(ServerConfig(max_request_bytes=2000)) as server:
        check_error(server.post("/v1/completions", prompt="x" * 2000), 413, "RequestTooLargeError")

        def chunks() -> Any:
            yield from [b'{"prompt":"'] + [b"x" * 1000] * 3

        headers = {"Content-Type": "application/json"}
        response = server.http.post("/v1/completions", content=chunks(), headers=headers)
        check_error(response, 413, "RequestTooLargeError")
        assert server.post("/v1/completions", prompt="x").status_code == 200


def test_the_server_lives_on(server: LiveServer) -> None:
    assert server.post("/v1/completions", prompt="x").status_code == 200
    assert server.metric("num_requests_running") == 0
    assert server.metric("request_failure_total") == 0
