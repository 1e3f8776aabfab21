"""Every API's way to ask for a form of the output, through the clients, on a model that knows no JSON."""

from __future__ import annotations

import json
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import anthropic
import jsonschema
import ollama
import pytest
from pydantic import BaseModel, Field
from support.live_server import LiveServer, live_server

from octavo.config import EngineConfig
from octavo.frontend import async_engine
from octavo.structured.params import StructuredOutputsParams

USER = {"role": "user", "content": "hi"}
CHAT: dict[str, Any] = {"model": "hash", "messages": [USER], "max_tokens": 200, "seed": 3}
SMALL: dict[str, Any] = {"max_num_seqs": 16, "max_num_batched_tokens": 64}


class Pet(BaseModel):
    """A schema as pydantic writes it."""

    kind: Literal["cat", "dog"]
    age: int = Field(ge=0, le=30)
    friends: list[bool] = Field(max_length=2)


SCHEMA = {**Pet.model_json_schema(), "additionalProperties": False}


def check(text: str) -> None:
    jsonschema.validate(json.loads(text), SCHEMA, jsonschema.Draft202012Validator)


def test_openai_parses_into_a_model(server: LiveServer) -> None:
    for seed in range(4):
        completion = server.openai.chat.completions.parse(**{**CHAT, "seed": seed}, response_format=Pet)
        [choice] = completion.choices
        assert isinstance(choice.message.parsed, Pet)
        assert choice.finish_reason == "stop"
        check(choice.message.content or "")


def test_openai_streams_what_is_parsed(server: LiveServer) -> None:
    with server.openai.chat.completions.stream(**CHAT, response_format=Pet) as stream:
        for _ in stream:
            pass
        parsed = stream.get_final_completion().choices[0].message.parsed
    whole = server.openai.chat.completions.parse(**CHAT, response_format=Pet)
    assert parsed == whole.choices[0].message.parsed


def test_openai_responses(server: LiveServer) -> None:
    asked: dict[str, Any] = {"model": "hash", "input": "hi", "max_output_tokens": 200}
    response = server.openai.responses.parse(**asked, text_format=Pet, extra_body={"seed": 3})
    assert isinstance(response.output_parsed, Pet)
    assert response.text.format.type == "json_schema"
    structured = {"seed": 3, "structured_outputs": {"choice": ["yes", "no"]}}
    assert server.openai.responses.create(**asked, extra_body=structured).output_text in ("yes", "no")


def test_any_object(server: LiveServer) -> None:
    """With keys and strings from a hash it may not come to its end; it begins as an object does."""
    completion = server.openai.chat.completions.create(**CHAT, response_format={"type": "json_object"})
    [choice] = completion.choices
    assert (choice.message.content or "").startswith("{")
    if choice.finish_reason == "stop":
        assert isinstance(json.loads(choice.message.content or ""), dict)


@pytest.mark.parametrize(
    ("fields", "regex"),
    [
        ({"structured_outputs": {"regex": r"\d{2,4}(a|é)"}}, r"\d{2,4}(a|é)"),
        ({"structured_outputs": {"choice": ["yes", "no"], "disable_fallback": False}}, "yes|no"),
        ({"structured_outputs": {"grammar": 'root ::= "a" | "b" "c"'}}, "a|bc"),
        ({"guided_regex": "[xyz]{3}", "guided_decoding_backend": "auto"}, "[xyz]{3}"),
        ({"guided_choice": ["yes", "no"]}, "yes|no"),
        ({"guided_grammar": 'start: "a" | "b"'}, "a|b"),
        (
            {"guided_json": {"const": {"a": [1]}}, "guided_whitespace_pattern": " ?"},
            r'{ ?"a" ?: ?\[ ?1 ?\] ?}',
        ),
        ({"guided_json": '{"enum": [1, "b"]}'}, '1|"b"'),
        ({"response_format": {"type": "text"}, "guided_regex": "a"}, "a"),
    ],
)
def test_vllms_fields_in_both_apis(server: LiveServer, fields: dict[str, Any], regex: str) -> None:
    for body in ({"messages": [USER]}, {"prompt": ["a", "b"], "n": 2}):
        response = server.post("/v1/chat/completions" if "messages" in body else "/v1/completions",
                               **{"model": "hash", "max_tokens": 100, **body, **fields})  # fmt: skip
        assert response.status_code == 200, response.text
        for choice in response.json()["choices"]:
            text = choice["text"] if "text" in choice else choice["message"]["content"]
            assert choice["finish_reason"] == "stop"
            assert re.fullmatch(regex, text)


def test_ollama(server: LiveServer) -> None:
    client = ollama.Client(host=server.url)
    options = {"seed": 3, "num_predict": 200}
    answer = client.chat(model="hash", messages=[USER], format=SCHEMA, options=options)
    check(answer.message.content or "")
    answer = client.generate(model="hash", prompt="hi", format="json", options=options)
    assert answer.response.startswith("{")


def test_anthropic(server: LiveServer) -> None:
    client = anthropic.Anthropic(base_url=server.url, api_key="key", max_retries=0)
    form = {"format": {"type": "json_schema", "schema": SCHEMA}}
    asked: dict[str, Any] = {"model": "hash", "messages": [USER], "max_tokens": 200}
    message = client.messages.create(**asked, output_config=form)
    check(message.content[0].text)
    assert message.stop_reason == "end_turn"
    for wrong in (
        {"effort": "low"},
        {"format": {"type": "json_object"}},
        {"format": {"type": "json_schema"}},
    ):
        with pytest.raises(anthropic.BadRequestError, match="output_config"):
            client.messages.create(**asked, output_config=wrong)


def test_the_reason_is_in_the_error(server: LiveServer) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "strin"}}}
    response = server.post("/v1/chat/completions", model="hash", messages=[USER], response_format=form)
    assert response.json()["error"]["message"] == "response_format: Invalid type: strin"
    response = server.post("/v1/completions", model="hash", prompt="a", structured_outputs={"regex": "a("})
    message = response.json()["error"]["message"]
    assert message.startswith("structured_outputs.regex: ")
    assert "unclosed group" in message


def test_what_the_operator_asks_of_all(server: LiveServer) -> None:
    closed = {"disable_any_whitespace": True, "disable_additional_properties": True}
    with live_server(engine=EngineConfig(**SMALL, structured_outputs_config=closed)) as strict:
        schema = {"type": "object", "properties": {"a": {"const": 1}}, "required": ["a"]}
        response = strict.post(
            "/v1/completions", model="hash", prompt="a", max_tokens=100, structured_outputs={"json": schema}
        )
    assert response.json()["choices"][0]["text"] == '{"a":1}'


def test_a_slow_grammar_keeps_nobody_waiting(server: LiveServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor its own client for ever."""
    grammars, go = server.engine._requests.grammars, threading.Event()
    compile_it = grammars._compile

    def slow(params: StructuredOutputsParams) -> Any:
        go.wait(60)
        return compile_it(params)

    monkeypatch.setattr(grammars, "_compile", slow)
    body = {"model": "hash", "prompt": "a", "structured_outputs": {"regex": "slow"}}
    with ThreadPoolExecutor() as threads:
        waits = threads.submit(server.post, "/v1/completions", **body)
        assert server.post("/v1/completions", model="hash", prompt="a").status_code == 200
        assert not waits.done()
        monkeypatch.setattr(async_engine, "_COMPILE_SECONDS", 0.01)
        late = server.post("/v1/completions", **{**body, "structured_outputs": {"regex": "other"}})
        go.set()
        assert waits.result().json()["choices"][0]["text"] == "slow"
    assert late.status_code == 400
    assert "structured_outputs.regex takes longer than" in late.json()["error"]["message"]
