"""Every byte of the answers of all routes, streamed or not, against bodies that were recorded.

The model is a hash and steps come after a fixed number of turns of the event loop, so nothing depends on the
machine. Ids and times are masked. `python tests/server/test_recorded_bodies.py` records the bodies again:
for a change that is meant to be seen by clients.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.in_process_engine import InProcessClient, InProcessEngine

from octavo.server.app import create_app
from octavo.server.asgi_call import call
from octavo.server.config import ServerConfig

RECORDED = Path(__file__).parent / "recorded_bodies.json"
TURNS = 30
"""Turns of the event loop between two steps: more than a reader of any route needs to take an output."""

CHAT, COMPLETIONS, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/responses"
MESSAGES, OLLAMA_CHAT, OLLAMA_GENERATE = "/v1/messages", "/api/chat", "/api/generate"
HI = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}]
GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 6}
SEEDED: dict[str, Any] = {"temperature": 1, "seed": 7, "max_tokens": 5}
STREAM: dict[str, Any] = {"stream": True}
USAGE: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}}
EACH_USAGE: dict[str, Any] = {
    "stream": True,
    "stream_options": {"include_usage": True, "continuous_usage_stats": True},
}
PREFILL = [*HI, {"role": "assistant", "content": "well"}]
GO_ON = {"messages": PREFILL, "add_generation_prompt": False, "continue_final_message": True, "echo": True}
IDS = {"return_token_ids": True, "return_tokens_as_token_ids": True}

OPENAI: dict[str, tuple[str, dict[str, Any]]] = {
    "completion": (COMPLETIONS, {"prompt": "a boat", **GREEDY}),
    "completion of ids": (COMPLETIONS, {"prompt": [1, 2, 3], **GREEDY}),
    "completion by default": (COMPLETIONS, {"prompt": "a boat", "seed": 1}),
    "completions of n": (COMPLETIONS, {"prompt": "a boat", "n": 2, **SEEDED}),
    "completions of prompts": (COMPLETIONS, {"prompt": ["a", "boat"], "n": 2, "echo": True, **SEEDED}),
    "completion with logprobs": (COMPLETIONS, {"prompt": "a boat", "logprobs": 2, "echo": True, **GREEDY}),
    "completion of token ids": (COMPLETIONS, {"prompt": "a boat", "logprobs": 1, **IDS, **GREEDY}),
    "chat": (CHAT, {"messages": HI, **GREEDY}),
    "chat of n": (CHAT, {"messages": HI, "n": 2, **SEEDED}),
    "chat with logprobs": (CHAT, {"messages": HI, "logprobs": True, "top_logprobs": 2, **GREEDY}),
    "chat of token ids": (CHAT, {"messages": HI, "logprobs": True, **IDS, **GREEDY}),
    "chat that goes on": (CHAT, {**GO_ON, **GREEDY}),
    "chat held to a choice": (CHAT, {"messages": HI, "guided_choice": ["yes", "no"], **GREEDY}),
}
BEAMS = {"use_beam_search": True, "n": 3, "max_tokens": 4}
OTHERS: dict[str, tuple[str, dict[str, Any]]] = {
    "prompt alone": (COMPLETIONS, {"prompt": "ab", "echo": True, "logprobs": 1, "max_tokens": 0}),
    "prompt logprobs": (COMPLETIONS, {"prompt": "ab", "prompt_logprobs": 1, "n": 2, **SEEDED}),
    "prompt logprobs of a chat": (CHAT, {"messages": HI[1:], "prompt_logprobs": 0, **GREEDY}),
    "best of": (COMPLETIONS, {"prompt": "ab", "best_of": 3, "n": 2, **SEEDED}),
    "beams": (COMPLETIONS, {"prompt": "ab", "logprobs": 1, **BEAMS}),
    "beams streamed": (CHAT, {"messages": HI, **BEAMS, **USAGE}),
    "no model": (CHAT, {"messages": HI, "model": "other"}),
    "too long": (CHAT, {"messages": HI, "max_completion_tokens": 10_000}),
    "too long a message": (MESSAGES, {"model": "hash", "messages": HI[1:], "max_tokens": 10_000}),
    "too long a response": (RESPONSES, {"input": "hi", "max_output_tokens": 10_000}),
    "tokens": ("/tokenize", {"messages": HI}),
    "count": (MESSAGES + "/count_tokens", {"model": "hash", "messages": HI[1:]}),
    "response": (RESPONSES, {"input": "hi", "max_output_tokens": 4, "temperature": 0, "instructions": "be"}),
    "response with logprobs": (
        RESPONSES,
        {"input": "hi", "max_output_tokens": 3, "temperature": 0, "top_logprobs": 1},
    ),
    "response streamed": (RESPONSES, {"input": "hi", "max_output_tokens": 4, "temperature": 0, **STREAM}),
    "response streamed with logprobs": (
        RESPONSES,
        {"input": "hi", "max_output_tokens": 2, "temperature": 0, "top_logprobs": 1, **STREAM},
    ),
    "invocation": ("/invocations", {"prompt": "a boat", **GREEDY}),
}
for name, streams in (("", False), (" streamed", True)):
    said = {"model": "hash", "messages": HI[1:], "system": "be brief", "stream": streams, **GREEDY}
    options = {"model": "hash", "stream": streams, "options": {"temperature": 0, "num_predict": 5}}
    OTHERS |= {
        f"message{name}": (MESSAGES, said),
        f"message that goes on{name}": (MESSAGES, {**said, "messages": PREFILL[1:]}),
        f"ollama chat{name}": (OLLAMA_CHAT, {**options, "messages": HI}),
        f"ollama answer{name}": (OLLAMA_GENERATE, {**options, "prompt": "hi", "system": "be brief"}),
        f"ollama json{name}": (OLLAMA_GENERATE, {**options, "prompt": "hi", "format": {"enum": ["yes"]}}),
    }

LONG: dict[str, dict[str, Any]] = {
    COMPLETIONS: {"prompt": ["a", "boat"], "max_tokens": 60, "temperature": 0},
    CHAT: {"messages": HI, "max_tokens": 60, "temperature": 0},
    RESPONSES: {"input": "hi", "max_output_tokens": 60, "temperature": 0},
    MESSAGES: {"model": "hash", "messages": HI[1:], "max_tokens": 60, "temperature": 0},
    OLLAMA_CHAT: {"model": "hash", "messages": HI, "options": {"temperature": 0}},
}
ENDED = {
    f"{path}{' streamed' if streams else ''}": (path, {**body, "stream": streams})
    for path, body in LONG.items()
    for streams in (False, True)
}
"""Requests whose time is over, or whose engine dies for good, after the third step."""


def requests() -> dict[str, tuple[str, dict[str, Any], str]]:
    """All requests by name: path, body, and what happens after the third step."""
    streamed = {f"{name} streamed": (path, {**body, **STREAM}) for name, (path, body) in OPENAI.items()}
    found = {name: (path, body, "") for name, (path, body) in {**OPENAI, **streamed, **OTHERS}.items()}
    for name in ("completion", "completions of n", "chat of n", "chat of token ids"):
        path, body = OPENAI[name]
        found[f"{name} with usage"] = (path, {**body, **USAGE}, "")
        found[f"{name} with usage in each chunk"] = (path, {**body, **EACH_USAGE}, "")
    for event in ("timeout", "death"):
        found |= {f"{event} of {name}": (*request, event) for name, request in ENDED.items()}
    return found


class SteppingClient(InProcessClient):
    """Steps after turns of the event loop, not after time."""

    event = ""
    engine: InProcessEngine

    async def _run(self) -> None:
        num_steps, more = 0, True
        while more:
            for _ in range(TURNS):
                await asyncio.sleep(0)
            if num_steps == 3 and self.event == "death":
                self.engine._end("the engine was killed")
                return
            if num_steps == 3 and self.event == "timeout":
                for state in self.engine._processor.states:
                    self.engine.abort(state.request.request_id, "timeout")
            more = self._engine.has_work
            self._on_step(self._engine.step())
            num_steps += 1


async def answers() -> dict[str, list[str]]:
    """Of each request the status and the body's lines, ids and times masked."""
    engine = InProcessEngine()
    app = create_app(engine, ServerConfig(), "hash")
    found = {}
    for name, (path, body, event) in requests().items():
        if event == "death":
            engine = InProcessEngine()
            app = create_app(engine, ServerConfig(), "hash")
        await engine.launch()  # One that has seen no other prompt.
        client = SteppingClient(engine.fake_client._engine, engine._take_step, 0.0)
        client.event, client.engine = event, engine
        engine._client = engine.fake_client = client  # type: ignore[assignment]
        status, content = await call(app, path, json.dumps(body).encode())
        found[name] = f"{status} {masked(content.decode())}".split("\n")
        await client.stop()
    return found


def masked(text: str) -> str:
    """Without what differs from run to run."""
    text = re.sub(r'"(id|item_id)":"(chatcmpl|cmpl|resp|msg|ollama)[-_]\w+"', r'"\1":"\2"', text)
    text = re.sub(r'"(created|created_at|completed_at|\w+_duration)":\d+', r'"\1":0', text)
    return re.sub(r'"created_at":"[^"]+"', '"created_at":""', text)


@pytest.fixture(scope="module")
def answered() -> dict[str, list[str]]:
    return asyncio.run(answers())


@pytest.mark.parametrize("name", requests())
def test_an_answer_is_the_one_that_was_recorded(answered: dict[str, list[str]], name: str) -> None:
    assert answered[name] == json.loads(RECORDED.read_text())[name]


def test_nothing_else_was_recorded() -> None:
    assert json.loads(RECORDED.read_text()).keys() == requests().keys()


if __name__ == "__main__":
    RECORDED.write_text(json.dumps(asyncio.run(answers()), indent=1) + "\n")
