"""`/api/chat` and `/api/generate`: Ollama's API, for text.

Source: docs/api.md of Ollama. Streams, the default, are lines of JSON. Options that tune Ollama's own runner
change nothing here; those that would change the text are honoured or refused.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import Any

import msgspec
from fastapi import APIRouter, Request, Response

from octavo.server.errors import APIError, error_body
from octavo.server.openapi import described_by
from octavo.server.other_apis.ollama_models import timestamp
from octavo.server.requests.answer import Answer, End, Event, Text
from octavo.server.requests.body import read_body
from octavo.server.requests.chat_request import ChatCompletionRequest, Message, check_count
from octavo.server.requests.disconnect import while_connected
from octavo.server.requests.output_form import from_schema
from octavo.server.requests.prepare import prepare
from octavo.server.serving import Serving, serving_of
from octavo.server.sse import start_stream

router = APIRouter()
_encode = msgspec.json.Encoder().encode

_SAMPLING = {
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "min_p": "min_p",
    "stop": "stop",
    "repeat_penalty": "repetition_penalty",
    "presence_penalty": "presence_penalty",
    "frequency_penalty": "frequency_penalty",
}
"""Ollama's options and the fields of OpenAI's and vLLM's API that they are."""
_RUNNER = frozenset(
    (
        "num_batch",
        "num_gpu",
        "main_gpu",
        "use_mmap",
        "use_mlock",
        "num_thread",
        "numa",
        "low_vram",
        "num_keep",
    )
)
Shape = Callable[[str], dict[str, Any]]
"""The fields of a line that hold a text."""


class OllamaRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What `/api/chat` and `/api/generate` have in common."""

    model: str
    stream: bool | None = None
    options: dict[str, Any] | None = None
    keep_alive: Any = None
    think: bool | str | None = None
    format: Any = None

    def given(self, serving: Serving) -> dict[str, Any]:
        """The fields of a chat completion that `options` ask for; raises APIError for what can not be."""
        for name, what in UNSUPPORTED.items():
            if getattr(self, name, None):
                raise APIError(400, f"{name}: {what} is not supported", name)
        fields: dict[str, Any] = {"stream": self.stream is not False}
        for name, value in (self.options or {}).items():
            if name in _SAMPLING:
                fields[_SAMPLING[name]] = value
            elif name == "seed":
                fields["seed"] = None if isinstance(value, int) and value < 0 else value
            elif name == "num_predict":
                fields["max_tokens"] = None if value in (-1, -2) else value
            elif name == "num_ctx":
                most = serving.engine.max_model_len
                if not isinstance(value, int) or value > most:
                    raise APIError(
                        400, f"options.num_ctx must be at most {most} (--max-model-len)", "options"
                    )
            elif name not in _RUNNER:
                raise APIError(400, f"options.{name} is not supported", "options")
        return fields


class OllamaMessage(msgspec.Struct, forbid_unknown_fields=True):
    """A message of a conversation."""

    role: str
    content: str = ""
    images: list[Any] | None = None
    tool_calls: list[Any] | None = None
    thinking: str | None = None


class OllamaChat(OllamaRequest, kw_only=True, forbid_unknown_fields=True):
    """The body of `POST /api/chat`."""

    messages: list[OllamaMessage]
    tools: list[Any] | None = None


class OllamaGenerate(OllamaRequest, kw_only=True, forbid_unknown_fields=True):
    """The body of `POST /api/generate`: one question, rendered by the chat template."""

    prompt: str
    system: str | None = None
    suffix: str | None = None
    template: str | None = None
    context: list[int] | None = None
    raw: bool | None = None
    images: list[Any] | None = None


@router.post("/api/chat", openapi_extra=described_by(OllamaChat))
async def chat(request: Request) -> Response:
    """Answer a conversation, as Ollama does."""
    serving = serving_of(request)
    body = await read_body(request, OllamaChat, serving.config.max_request_bytes)
    check_count("messages", body.messages)
    messages = []
    for index, message in enumerate(body.messages):
        if message.images or message.tool_calls:
            raise APIError(400, f"messages[{index}]: images and tool calls are not supported", "messages")
        messages.append(Message(message.role, message.content))
    shape: Shape = lambda text: {"message": {"role": "assistant", "content": text}}  # noqa: E731
    return await _respond(request, serving, body, messages, shape)


@router.post("/api/generate", openapi_extra=described_by(OllamaGenerate))
async def generate(request: Request) -> Response:
    """Answer one question, as Ollama does."""
    serving = serving_of(request)
    body = await read_body(request, OllamaGenerate, serving.config.max_request_bytes)
    messages = [Message("system", body.system)] if body.system else []
    messages.append(Message("user", body.prompt))
    shape: Shape = lambda text: {"response": text}  # noqa: E731
    return await _respond(request, serving, body, messages, shape)


async def _respond(
    request: Request, serving: Serving, body: OllamaRequest, messages: list[Message], shape: Shape
) -> Response:
    serving.check_model(body.model.removesuffix(":latest"))
    try:
        chat = msgspec.convert({"messages": [], **body.given(serving)}, ChatCompletionRequest)
    except msgspec.ValidationError as error:
        raise APIError(400, f"options: {error}", "options") from error
    chat.messages = messages
    generation = await prepare(request, chat, "ollama", form=from_schema(body.format, "format"))
    writer = _Lines(body.model, shape)
    lines = Answer(serving, generation).written(writer)
    if chat.stream:
        return await start_stream(request, lines, writer.failed, "application/x-ndjson")
    return Response(await while_connected(request.receive, _last(lines)), media_type="application/json")


class _Lines:
    """Writes a line for each piece of text; the last has the end's reason, token counts and times."""

    def __init__(self, model: str, shape: Shape) -> None:
        self._model = model
        self._shape = shape
        self._begun = time.monotonic_ns()
        self._first = 0
        """When there was something of the answer."""

    def write(self, events: Sequence[Event]) -> bytes:
        line: dict[str, Any] = {"model": self._model, "created_at": timestamp(time.time())}
        for event in events:
            if isinstance(event, Text):
                line |= {**self._shape(event.text), "done": False}
            elif isinstance(event, End):
                line |= self._end(event)
            else:
                self._first = time.monotonic_ns()
        return _encode(line) + b"\n"

    def close(self) -> bytes:
        return b""

    def failed(self, error: Exception) -> bytes:
        return _encode({"error": error_body(error).error.message}) + b"\n"

    def _end(self, end: End) -> dict[str, Any]:
        now = time.monotonic_ns()
        return {
            "done": True,
            "done_reason": end.reason,
            "total_duration": now - self._begun,
            "load_duration": 0,
            "prompt_eval_count": end.usage.prompt_tokens,
            "prompt_eval_duration": self._first - self._begun,
            "eval_count": end.usage.completion_tokens,
            "eval_duration": now - self._first,
        }


async def _last(lines: AsyncGenerator[bytes, None]) -> bytes:
    last = b""
    async with aclosing(lines):
        async for line in lines:
            last = line
    return last


UNSUPPORTED = {
    "think": "thinking apart from the answer",
    "tools": "tool calling",
    "suffix": "insertion into a text",
    "template": "a template of the request's own",
    "context": "the context of an earlier answer",
    "raw": "a prompt without a template",
    "images": "input other than text",
}
WITHOUT_EFFECT = frozenset({"keep_alive"})
