"""Real clients against `octavo serve` with the demo model: all of them get the same answer."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import ollama
import openai
import pytest
from support.npm_openai import npm_openai, run_script
from support.serve_command import Command, serve

pytest.importorskip("octavo._native", reason="the kernels are not built")

QUESTION = "What is the capital of Germany?"
MESSAGES: Any = [{"role": "user", "content": QUESTION}]
MAX_TOKENS = 24


@pytest.fixture(scope="module")
def command(demo_model: Path) -> Iterator[Command]:
    with serve(demo_model) as command:
        yield command


@pytest.fixture(scope="module")
def expected(command: Command) -> str:
    """What plain HTTP gives."""
    body = {"messages": MESSAGES, "max_tokens": MAX_TOKENS, "temperature": 0}
    response = command.http.post("/v1/chat/completions", json=body)
    text: str = response.json()["choices"][0]["message"]["content"]
    assert "Berlin" in text
    return text


def test_openai_python(command: Command, expected: str) -> None:
    client = command.openai
    given: Any = {"model": "demo", "messages": MESSAGES, "max_tokens": MAX_TOKENS, "temperature": 0}
    completion = client.chat.completions.create(**given)
    assert completion.choices[0].message.content == expected
    chunks = client.chat.completions.create(**given, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == expected
    response: Any = {"model": "demo", "input": QUESTION, "max_output_tokens": MAX_TOKENS, "temperature": 0}
    assert client.responses.create(**response).output_text == expected
    deltas = [
        e.delta for e in client.responses.create(**response, stream=True) if e.type.endswith("text.delta")
    ]
    assert "".join(deltas) == expected
    assert [model.id for model in client.models.list()] == ["demo"]
    with pytest.raises(openai.BadRequestError, match="tools"):
        client.chat.completions.create(**given, tools=[{"type": "function", "function": {"name": "f"}}])


def test_openai_javascript(command: Command, expected: str) -> None:
    folder = npm_openai()
    script = f"""
        import OpenAI from "openai";
        const client = new OpenAI({{ baseURL: "{command.url}/v1", apiKey: "none", maxRetries: 0 }});
        const given = {{ model: "demo", messages: {json.dumps(MESSAGES)}, max_tokens: {MAX_TOKENS},
                         temperature: 0 }};
        const whole = await client.chat.completions.create(given);
        let streamed = "";
        for await (const chunk of await client.chat.completions.create({{ ...given, stream: true }}))
            streamed += chunk.choices[0].delta.content ?? "";
        const response = {{ model: "demo", input: {json.dumps(QUESTION)}, max_output_tokens: {MAX_TOKENS},
                            temperature: 0 }};
        const answered = await client.responses.create(response);
        const kinds = [];
        for await (const event of await client.responses.create({{ ...response, stream: true }}))
            kinds.push(event.type);
        const error = await client.completions.create({{ model: "gpt-4", prompt: "x" }}).catch((e) => e);
        console.log(JSON.stringify({{ whole: whole.choices[0].message.content, streamed,
            response: answered.output_text, first: kinds[0], last: kinds.at(-1),
            error: error.constructor.name, status: error.status }}));
    """
    found = json.loads(run_script(script, folder))
    assert found == {
        "whole": expected,
        "streamed": expected,
        "response": expected,
        "first": "response.created",
        "last": "response.completed",
        "error": "NotFoundError",
        "status": 404,
    }


def test_litellm(command: Command, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # else it asks the network for prices
    litellm = pytest.importorskip("litellm")
    given: Any = {"messages": MESSAGES, "max_tokens": MAX_TOKENS, "temperature": 0, "api_key": "none"}
    for provider in ("openai", "hosted_vllm"):
        given |= {"model": f"{provider}/demo", "api_base": f"{command.url}/v1"}
        assert litellm.completion(**given).choices[0].message.content == expected
        chunks = litellm.completion(**given, stream=True)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == expected


def test_langchain(command: Command, expected: str) -> None:
    langchain_openai = pytest.importorskip("langchain_openai")
    given: Any = {"model": "demo", "base_url": f"{command.url}/v1", "api_key": "none"}
    given |= {"max_tokens": MAX_TOKENS, "temperature": 0, "max_retries": 0}
    model = langchain_openai.ChatOpenAI(**given)
    answer = model.invoke(QUESTION)
    assert answer.content == expected
    assert answer.usage_metadata["output_tokens"] > 0
    assert "".join(chunk.content for chunk in model.stream(QUESTION)) == expected
    assert [each.content for each in model.batch([QUESTION, QUESTION])] == [expected, expected]
    through_responses = langchain_openai.ChatOpenAI(**given, use_responses_api=True)
    assert through_responses.invoke(QUESTION).text == expected


def test_anthropic(command: Command, expected: str) -> None:
    given: Any = {"model": "demo", "messages": MESSAGES, "max_tokens": MAX_TOKENS}
    given["extra_body"] = {"temperature": 0}
    with anthropic.Anthropic(base_url=command.url, api_key="none", max_retries=0) as client:
        message = client.messages.create(**given)
        assert message.content[0].text == expected
        assert message.stop_reason == "end_turn"
        with client.messages.stream(**given) as stream:
            assert "".join(stream.text_stream) == expected
        with pytest.raises(anthropic.NotFoundError):
            client.messages.create(**{**given, "model": "claude"})


def test_ollama(command: Command, expected: str) -> None:
    client = ollama.Client(host=command.url)
    given: Any = {"model": "demo", "options": {"num_predict": MAX_TOKENS, "temperature": 0}}
    assert client.chat(messages=MESSAGES, **given).message.content == expected
    parts = client.chat(messages=MESSAGES, stream=True, **given)
    assert "".join(part.message.content or "" for part in parts) == expected
    assert client.generate(prompt=QUESTION, **given).response == expected
    assert [model.model for model in client.list().models] == ["demo"]
    shown = client.show("demo")
    assert shown.details is not None
    assert (shown.details.format, shown.details.family) == ("gguf", "llama")
    [running] = client.ps().models
    assert (running.size or 0) > 50_000_000
