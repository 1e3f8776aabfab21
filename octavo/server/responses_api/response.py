"""The response object of OpenAI's Responses API."""

from __future__ import annotations

from typing import Any

import msgspec

from octavo.server.openai.responses import TokenLogprob
from octavo.server.requests.answer import End
from octavo.server.requests.generation import Generation
from octavo.server.requests.usage import Usage
from octavo.server.responses_api.request import ResponsesRequest
from octavo.server.serving import now


class OutputText(msgspec.Struct):
    """The text of a message."""

    text: str
    type: str = "output_text"
    annotations: list[Any] = msgspec.field(default_factory=list)
    logprobs: list[TokenLogprob] = msgspec.field(default_factory=list)


class OutputMessage(msgspec.Struct, kw_only=True):
    """The answer as an item of the output."""

    id: str
    type: str = "message"
    role: str
    status: str = "in_progress"
    content: list[OutputText] = msgspec.field(default_factory=list)


class InputDetails(msgspec.Struct):
    """Of the input's tokens, those that the prefix cache gave."""

    cached_tokens: int
    cache_write_tokens: int = 0


class OutputDetails(msgspec.Struct):
    """Of the output's tokens, those of thinking: models here do not think apart."""

    reasoning_tokens: int = 0


class ResponseUsage(msgspec.Struct):
    """The tokens of a response."""

    input_tokens: int
    input_tokens_details: InputDetails
    output_tokens: int
    output_tokens_details: OutputDetails
    total_tokens: int

    @classmethod
    def of(cls, usage: Usage) -> ResponseUsage:
        """What was counted, in this API's names."""
        cached = InputDetails(usage.cached_tokens)
        return cls(usage.prompt_tokens, cached, usage.completion_tokens, OutputDetails(), usage.total_tokens)


class IncompleteDetails(msgspec.Struct):
    """Why a response ended early."""

    reason: str


class ResponseError(msgspec.Struct):
    """Why a response failed."""

    code: str
    message: str


class Reasoning(msgspec.Struct, frozen=True):
    """Models here do not think apart from the answer."""

    effort: None = None
    summary: None = None


class TextSettings(msgspec.Struct, frozen=True):
    """The form of the answer, as the request gave it."""

    format: dict[str, Any]


class ResponseObject(msgspec.Struct, kw_only=True):
    """A response: what was asked and, as far as it is there, what was answered."""

    id: str
    object: str = "response"
    created_at: int
    completed_at: int | None = None
    status: str = "in_progress"
    error: ResponseError | None = None
    incomplete_details: IncompleteDetails | None = None
    instructions: str | None
    max_output_tokens: int | None
    model: str
    output: list[OutputMessage]
    parallel_tool_calls: bool = True
    previous_response_id: str | None
    reasoning: Reasoning = Reasoning()
    store: bool
    temperature: float
    text: TextSettings
    tool_choice: str = "none"
    tools: list[Any] = []
    top_logprobs: int | None
    top_p: float
    truncation: str = "disabled"
    usage: ResponseUsage | None = None
    user: str | None
    metadata: dict[str, str]
    background: bool = False
    service_tier: str = "default"

    def finish(self, message: OutputMessage, end: End) -> None:
        """Take the answer, complete or ended early, and why it ended."""
        self.output = [message]
        self.usage = ResponseUsage.of(end.usage)
        self.completed_at = now()
        self.status = message.status = "completed"
        if end.reason == "length":
            self.status = message.status = "incomplete"
            self.incomplete_details = IncompleteDetails("max_output_tokens")
        elif end.reason != "stop":
            self.status, message.status = "failed", "incomplete"
            self.error = ResponseError("server_error", _failures.get(end.reason, "it ended"))


def new_response(body: ResponsesRequest, generation: Generation, store: bool) -> ResponseObject:
    """The response to a request before its answer begins."""
    params = generation.params[0]
    return ResponseObject(
        id=generation.response_id,
        created_at=now(),
        instructions=body.instructions,
        max_output_tokens=body.max_output_tokens,
        model=generation.model,
        output=[],
        previous_response_id=body.previous_response_id,
        store=store,
        temperature=params.temperature,
        top_logprobs=body.top_logprobs,
        top_p=params.top_p,
        text=TextSettings((body.text or {}).get("format") or {"type": "text"}),
        user=body.user,
        metadata=body.metadata or {},
    )


_failures = {"timeout": "the answer was not complete when the request's time was over"}
