"""`POST /v1/messages` and `/v1/messages/count_tokens`: Anthropic's Messages API, for text.

Source: the Messages API reference and its page on streaming. A final message of the assistant's is gone on
with, as there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from fastapi import APIRouter, Request, Response

from octavo.server.errors import APIError, anthropic_error
from octavo.server.openapi import described_by
from octavo.server.requests.answer import Answer, End, Event, Text
from octavo.server.requests.body import json_response, read_body
from octavo.server.requests.chat_request import ChatCompletionRequest, Message, check_count
from octavo.server.requests.conversation import chat_prompt
from octavo.server.requests.disconnect import while_connected
from octavo.server.requests.output_form import OutputForm, from_text_format
from octavo.server.requests.prepare import prepare
from octavo.server.requests.usage import Usage
from octavo.server.serving import serving_of
from octavo.server.sse import start_stream

router = APIRouter()
_encode = msgspec.json.Encoder().encode

TIMEOUT = "timeout"


class AnthropicMessage(msgspec.Struct, forbid_unknown_fields=True):
    """A message; content is text or a list of text blocks."""

    role: str
    content: str | list[dict[str, Any]]


class CountRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The body of `count_tokens`."""

    model: str
    messages: list[AnthropicMessage]
    system: str | list[dict[str, Any]] | None = None

    output_config: dict[str, Any] | None = None

    # Refused, unless they ask for nothing.
    tools: list[Any] | None = None
    tool_choice: dict[str, Any] | None = None
    thinking: dict[str, Any] | None = None
    mcp_servers: list[Any] | None = None
    container: Any = None
    context_management: Any = None

    def check(self) -> None:
        """Raise APIError for what the server can not honour."""
        for name, what in UNSUPPORTED.items():
            value = getattr(self, name)
            if value and value not in ({"type": "none"}, {"type": "disabled"}):
                raise APIError(400, f"{name}: {what} is not supported", name)
        self.output_form()
        check_count("messages", self.messages)
        for index, message in enumerate(self.messages):
            if message.role not in ("user", "assistant"):
                path = f"messages[{index}].role"
                raise APIError(400, f"{path} must be user or assistant, got {message.role[:50]!r}", path)

    def output_form(self) -> OutputForm | None:
        """The form that the answer must have, if any; raises APIError for one that can not be."""
        for name, value in (self.output_config or {}).items():
            path = f"output_config.{name[:100]}"
            if name != "format" and value is not None:
                raise APIError(400, f"{path} is not supported", path)
            if not isinstance(value, dict | None) or (value and value.get("type") != "json_schema"):
                raise APIError(400, f"{path}: type must be json_schema", path)
        return from_text_format((self.output_config or {}).get("format"), "output_config.format")

    def chat(self) -> ChatCompletionRequest:
        """The same conversation as OpenAI's API has it."""
        opening = [Message("system", _text(self.system, "system"))] if self.system else []
        messages = [
            Message(message.role, _text(message.content, f"messages[{index}].content"))
            for index, message in enumerate(self.messages)
        ]
        continues = bool(messages) and messages[-1].role == "assistant"
        return ChatCompletionRequest(messages=opening + messages, continue_final_message=continues)


class MessagesRequest(CountRequest, kw_only=True, forbid_unknown_fields=True):
    """The body of `POST /v1/messages`."""

    max_tokens: int
    stop_sequences: list[str] | None = None
    stream: bool | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    metadata: dict[str, Any] | None = None
    service_tier: str | None = None

    def chat(self) -> ChatCompletionRequest:
        """The same request as OpenAI's API has it."""
        body = super().chat()
        body.max_tokens, body.stream, body.stop = self.max_tokens, self.stream, self.stop_sequences
        body.temperature, body.top_p, body.top_k = self.temperature, self.top_p, self.top_k
        return body


class TextBlock(msgspec.Struct):
    """A part of the answer."""

    text: str
    type: str = "text"


class MessageUsage(msgspec.Struct):
    """Tokens; those of the prompt that the prefix cache gave are not among `input_tokens`."""

    input_tokens: int
    output_tokens: int
    cache_read_input_tokens: int
    cache_creation_input_tokens: int = 0


class AnswerMessage(msgspec.Struct, kw_only=True):
    """The answer."""

    id: str
    type: str = "message"
    role: str = "assistant"
    model: str
    content: list[TextBlock]
    stop_reason: str | None = None
    stop_sequence: str | None = None
    usage: MessageUsage


class TokenCount(msgspec.Struct):
    """The answer of `count_tokens`."""

    input_tokens: int


@router.post("/v1/messages", openapi_extra=described_by(MessagesRequest))
async def create_message(request: Request) -> Response:
    """Answer a conversation, as Anthropic's API does."""
    serving = serving_of(request)
    body = await read_body(request, MessagesRequest, serving.config.max_request_bytes)
    body.check()
    model = serving.check_model(body.model)
    generation = await prepare(request, body.chat(), "msg", form=body.output_form())
    answer = Answer(serving, generation)
    message = AnswerMessage(id=generation.response_id, model=model, content=[], usage=_usage(answer.usage))
    if body.stream:
        writer = _Events(message)
        return await start_stream(request, answer.written(writer), writer.failed)
    return json_response(await while_connected(request.receive, _complete(answer, message)))


@router.post("/v1/messages/count_tokens", openapi_extra=described_by(CountRequest))
async def count_tokens(request: Request) -> Response:
    """The number of tokens of a conversation."""
    serving = serving_of(request)
    body = await read_body(request, CountRequest, serving.config.max_request_bytes)
    body.check()
    serving.check_model(body.model)
    chat = body.chat()
    chat.check()
    return json_response(TokenCount(len((await chat_prompt(serving, chat)).token_ids)))


async def _complete(answer: Answer, message: AnswerMessage) -> AnswerMessage:
    [choice] = await answer.choices()
    _check_in_time(choice.end)
    message.content = [TextBlock(choice.text.text)]
    message.stop_reason, message.stop_sequence = _stop(choice.end)
    message.usage = _usage(choice.end.usage)
    return message


class _Events:
    """Writes the events of an answer as this API's."""

    def __init__(self, message: AnswerMessage) -> None:
        self._message = message
        self._end: End | None = None

    def write(self, events: Sequence[Event]) -> bytes:
        written = b""
        for event in events:
            if isinstance(event, Text):
                if event.text:
                    delta = {"type": "text_delta", "text": event.text}
                    written += _event("content_block_delta", index=0, delta=delta)
            elif isinstance(event, End):
                self._end = event
                if event.reason != TIMEOUT:
                    written += _ending(event)
            else:
                self._message.usage = _usage(event.usage)
                written += _event("message_start", message=self._message)
                written += _event("content_block_start", index=0, content_block=TextBlock(""))
        return written

    def close(self) -> bytes:
        if self._end is not None:
            _check_in_time(self._end)  # What there is of the text comes before the error.
        return b""

    def failed(self, error: Exception) -> bytes:
        return b"event: error\ndata: %b\n\n" % _encode(anthropic_error(error))


def _ending(end: End) -> bytes:
    reason, sequence = _stop(end)
    delta = {"stop_reason": reason, "stop_sequence": sequence}
    return (
        _event("content_block_stop", index=0)
        + _event("message_delta", delta=delta, usage=_usage(end.usage))
        + _event("message_stop")
    )


def _event(kind: str, **fields: Any) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), _encode({"type": kind, **fields}))


def _check_in_time(end: End) -> None:
    """Raise APIError for an answer that the clock ended: Anthropic's API has no stop reason for that."""
    if end.reason == TIMEOUT:
        raise APIError(504, "the answer was not complete when the request's time was over")


def _stop(end: End) -> tuple[str | None, str | None]:
    """Anthropic's `stop_reason` and `stop_sequence`."""
    if end.reason == "length":
        return "max_tokens", None
    if isinstance(end.stop_reason, str):
        return "stop_sequence", end.stop_reason
    return "end_turn", None


def _usage(usage: Usage) -> MessageUsage:
    return MessageUsage(
        usage.prompt_tokens - usage.cached_tokens, usage.completion_tokens, usage.cached_tokens
    )


def _text(content: str | list[dict[str, Any]], path: str) -> str:
    """The text of a content; raises APIError for a block that is not text."""
    if isinstance(content, str):
        return content
    texts = []
    for index, block in enumerate(content):
        kind, text = block.get("type"), block.get("text")
        if kind != "text" or not isinstance(text, str):
            where = f"{path}[{index}]"
            raise APIError(400, f"{where}: only blocks of text are supported, got type {kind!r:.50}", where)
        texts.append(text)
    return "\n".join(texts)


UNSUPPORTED = {
    "tools": "tool calling",
    "tool_choice": "tool calling",
    "thinking": "extended thinking",
    "mcp_servers": "calling MCP servers",
    "container": "running code",
    "context_management": "editing the context",
}
WITHOUT_EFFECT = frozenset({"metadata", "service_tier"})
