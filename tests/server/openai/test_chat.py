"""`/v1/chat/completions` through OpenAI's own client and by hand."""

from __future__ import annotations

import json
from typing import Any

import pytest
from support.fake_engine import byte_tokenizer
from support.live_server import LiveServer, live_server

from octavo.server.config import ServerConfig

USER = {"role": "user", "content": "hi"}
ARGUMENTS: dict[str, Any] = {"model": "hash", "messages": [USER], "max_tokens": 10, "seed": 5}


def chat(server: LiveServer, **arguments: Any) -> Any:
    return server.openai.chat.completions.create(**{**ARGUMENTS, **arguments})


def prompt_of(server: LiveServer) -> str:
    """The prompt of the request that the engine got last."""
    return byte_tokenizer().decode(server.engine.fake_client.requests[-1].prompt_token_ids)


def test_an_answer_has_a_message_reason_and_usage(server: LiveServer) -> None:
    completion = chat(server)
    [choice] = completion.choices
    assert completion.id.startswith("chatcmpl-")
    assert completion.object == "chat.completion"
    assert choice.message.role == "assistant"
    assert choice.message.content
    assert choice.finish_reason == "length"
    assert prompt_of(server) == "user: hi\nassistant:"
    assert completion.usage.prompt_tokens == len("user: hi\nassistant:")
    assert completion.usage.completion_tokens == 10


@pytest.mark.parametrize("arguments", [{}, {"n": 3}, {"logprobs": True, "top_logprobs": 2}])
def test_a_stream_gives_what_a_whole_response_gives(server: LiveServer, arguments: dict[str, Any]) -> None:
    whole = chat(server, **arguments)
    contents = [""] * len(whole.choices)
    roles: list[list[str]] = [[] for _ in whole.choices]
    reasons: list[str | None] = [None] * len(whole.choices)
    logprobs: list[list[Any]] = [[] for _ in whole.choices]
    for chunk in chat(server, stream=True, **arguments):
        assert chunk.object == "chat.completion.chunk"
        [choice] = chunk.choices
        contents[choice.index] += choice.delta.content or ""
        roles[choice.index] += [choice.delta.role] if choice.delta.role else []
        reasons[choice.index] = choice.finish_reason
        if choice.logprobs is not None:
            logprobs[choice.index] += choice.logprobs.content
    assert contents == [choice.message.content for choice in whole.choices]
    assert roles == [["assistant"]] * len(whole.choices)
    assert reasons == [choice.finish_reason for choice in whole.choices]
    if "logprobs" in arguments:
        assert logprobs == [choice.logprobs.content for choice in whole.choices]


def test_an_answer_may_take_all_that_is_left(server: LiveServer) -> None:
    completion = chat(server, max_tokens=None, extra_body={"ignore_eos": True})
    assert completion.usage.total_tokens == 256


def test_both_names_of_max_tokens(server: LiveServer) -> None:
    assert chat(server, max_tokens=3).usage.completion_tokens == 3
    assert chat(server, max_tokens=9, max_completion_tokens=4).usage.completion_tokens == 4


def test_logprobs_with_their_bytes(server: LiveServer) -> None:
    entries = chat(server, logprobs=True, top_logprobs=3).choices[0].logprobs.content
    assert len(entries) == 10
    for entry in entries:
        assert len(entry.bytes) == 1
        assert bytes(entry.bytes).decode(errors="replace") == entry.token
        best = [top.logprob for top in entry.top_logprobs]
        assert len(best) == 3
        assert best == sorted(best, reverse=True)
        assert entry.logprob <= best[0]
    assert chat(server, logprobs=True).choices[0].logprobs.content[0].top_logprobs == []
    assert chat(server).choices[0].logprobs is None


def test_content_in_parts_and_the_newer_name_of_system(server: LiveServer) -> None:
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    chat(server, messages=[{"role": "developer", "content": "be brief"}, {"role": "user", "content": parts}])
    assert prompt_of(server) == "system: be brief\nuser: one\ntwo\nassistant:"


def test_an_answer_can_be_sent_back(server: LiveServer) -> None:
    message = chat(server).choices[0].message
    again = [USER, message.model_dump(), {"role": "user", "content": "more"}]
    assert chat(server, messages=again).choices[0].message.content
    assert message.content in prompt_of(server)


def test_the_final_message_can_be_continued(server: LiveServer) -> None:
    begun = [USER, {"role": "assistant", "content": "Well"}]
    completion = chat(server, messages=begun, extra_body={"continue_final_message": True})
    assert prompt_of(server) == "user: hi\nassistant: Well"
    assert completion.choices[0].message.role == "assistant"


def test_echo_gives_the_message_that_is_continued_back(server: LiveServer) -> None:
    begun = [USER, {"role": "assistant", "content": "Well"}]
    body = {"continue_final_message": True, "echo": True}
    rest = chat(server, messages=begun, extra_body={"continue_final_message": True}).choices[0].message
    whole = chat(server, messages=begun, extra_body=body).choices[0].message.content
    assert whole == f"Well{rest.content}"
    chunks = chat(server, messages=begun, extra_body=body, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole
    plain = chat(server).choices[0].message.content
    assert chat(server, extra_body={"echo": True}).choices[0].message.content == plain


def test_tokens_can_be_named_by_their_ids(server: LiveServer) -> None:
    body = {"return_tokens_as_token_ids": True, "return_token_ids": True}
    [choice] = chat(server, logprobs=True, top_logprobs=2, extra_body=body).choices
    for token_id, entry in zip(choice.token_ids, choice.logprobs.content, strict=True):
        assert entry.token == f"token_id:{token_id}"
        assert entry.bytes == [token_id]
        assert all(top.token.startswith("token_id:") for top in entry.top_logprobs)


def test_documents_reach_the_template() -> None:
    config = ServerConfig(chat_template="{{ documents[0].text }}: {{ messages[0].content }}")
    with live_server(config) as server:
        chat(server, extra_body={"documents": [{"title": "a", "text": "facts"}]})
        assert prompt_of(server) == "facts: hi"


def test_tokens_and_prompt_logprobs_on_request(server: LiveServer) -> None:
    body = {"return_token_ids": True, "prompt_logprobs": 0}
    completion = chat(server, extra_body=body)
    assert completion.prompt_token_ids == byte_tokenizer().encode("user: hi\nassistant:")
    assert len(completion.choices[0].token_ids) == 10
    assert len(completion.prompt_logprobs) == len(completion.prompt_token_ids)
    chunks = list(chat(server, stream=True, extra_body={"return_token_ids": True}))
    assert chunks[0].prompt_token_ids == completion.prompt_token_ids
    tokens = [i for chunk in chunks for i in getattr(chunk.choices[0], "token_ids", None) or []]
    assert tokens == completion.choices[0].token_ids


def test_usage_of_a_stream(server: LiveServer) -> None:
    chunks = list(chat(server, stream=True, stream_options={"include_usage": True}))
    assert [chunk.usage for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == 10
    assert chunks[-1].usage.prompt_tokens_details.cached_tokens >= 0


def test_cached_tokens_are_told(server: LiveServer) -> None:
    messages = [{"role": "user", "content": "a prompt of more than three blocks of 16"}]
    chat(server, messages=messages)
    usage = chat(server, messages=messages).usage
    # Exact to the token and not to the block: all but the last, whose logits are wanted.
    assert usage.prompt_tokens_details.cached_tokens == usage.prompt_tokens - 1 > 48


def test_fields_without_effect_are_accepted(server: LiveServer) -> None:
    harmless = {
        "user": "me",
        "metadata": {"a": "b"},
        "store": False,
        "service_tier": "auto",
        "parallel_tool_calls": True,
        "tools": [],
        "tool_choice": "none",
        "response_format": {"type": "text"},
        "modalities": ["text"],
        "safety_identifier": "x",
        "prompt_cache_key": "x",
        "logit_bias": {},
        "functions": None,
        "audio": None,
    }
    response = server.post("/v1/chat/completions", **ARGUMENTS, **harmless)
    assert response.status_code == 200, response.text


def test_the_wire_format_of_a_stream(server: LiveServer) -> None:
    body = {**ARGUMENTS, "stream": True, "temperature": 0}
    with server.http.stream("POST", "/v1/chat/completions", json=body) as response:
        events = response.read().decode().split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    chunks = [json.loads(event.removeprefix("data: ")) for event in events[:-2]]
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert chunks[-1]["choices"][0]["finish_reason"] == "length"
    assert "usage" not in chunks[0]


def test_the_server_s_template_and_role_replace_the_model_s() -> None:
    config = ServerConfig(
        chat_template="{{ flavour }}{{ messages[0].content }}{% if add_generation_prompt %}>{% endif %}",
        response_role="model",
    )
    with live_server(config) as server:
        completion = chat(server, extra_body={"chat_template_kwargs": {"flavour": "mint "}})
        assert prompt_of(server) == "mint hi>"
        assert completion.choices[0].message.role == "model"


def test_reasoning_effort_is_for_the_template() -> None:
    config = ServerConfig(chat_template="{{ reasoning_effort }} {{ enable_thinking }}")
    with live_server(config) as server:
        chat(server, extra_body={"reasoning_effort": "high"})
        assert prompt_of(server) == "high True"
        chat(server, extra_body={"reasoning_effort": "none"})
        assert prompt_of(server) == "none False"
        kwargs = {"enable_thinking": "perhaps"}
        chat(server, extra_body={"reasoning_effort": "low", "chat_template_kwargs": kwargs})
        assert prompt_of(server) == "low perhaps"


def test_messages_have_what_clients_look_for() -> None:
    with live_server() as server:
        message = server.post("/v1/chat/completions", **ARGUMENTS).json()["choices"][0]["message"]
        assert {**message, "content": ""} == {
            "role": "assistant",
            "content": "",
            "refusal": None,
            "tool_calls": [],
        }


def test_a_template_of_the_request_needs_trust() -> None:
    body = {**ARGUMENTS, "chat_template": "{{ messages[0].content }}!"}
    with live_server(ServerConfig(trust_request_chat_template=True)) as server:
        assert server.post("/v1/chat/completions", **body).status_code == 200
        assert prompt_of(server) == "hi!"


def test_a_model_without_a_template() -> None:
    with live_server() as server:
        server.engine.tokenizer.chat_templates.clear()
        response = server.post("/v1/chat/completions", **ARGUMENTS)
        assert response.status_code == 400
        assert "--chat-template" in response.json()["error"]["message"]
