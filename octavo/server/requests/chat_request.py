"""The body of a chat completion: OpenAI's, with vLLM's additions; null always means the default.

The APIs of others that answer conversations make one of theirs, so it stands here. Sources: the OpenAI API
reference (chat completions) and vLLM's OpenAI-compatible server.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from octavo.sampling_params import MAX_LOGPROBS, check_integer
from octavo.server.errors import APIError, bad_input
from octavo.server.requests.generation_request import FieldNames, GenerationRequest, Wanted

MAX_MESSAGES = 1 << 16


def check_count(name: str, messages: Sequence[Any]) -> None:
    """Raise APIError for more messages than a request may have."""
    if len(messages) > MAX_MESSAGES:
        raise APIError(400, f"{name} takes at most {MAX_MESSAGES} messages, got {len(messages)}", name)


class Message(msgspec.Struct, forbid_unknown_fields=True):
    """One message of a conversation, as sent or as an earlier response gave it."""

    role: str
    content: str | list[dict[str, Any]] | None = None
    name: str | None = None
    refusal: str | None = None
    annotations: list[Any] | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    audio: Any = None
    tool_calls: list[Any] | None = None
    tool_call_id: str | None = None
    function_call: Any = None


class ChatCompletionRequest(GenerationRequest, kw_only=True, forbid_unknown_fields=True):
    """The body of `POST /v1/chat/completions`."""

    messages: list[Message]
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    documents: list[dict[str, Any]] | None = None
    include_reasoning: bool | None = None

    store: bool | None = None
    parallel_tool_calls: bool | None = None
    modalities: list[str] | None = None
    tools: list[Any] | None = None
    tool_choice: Any = None
    functions: list[Any] | None = None
    function_call: Any = None
    audio: Any = None
    prediction: Any = None
    reasoning_effort: str | None = None
    verbosity: str | None = None
    web_search_options: Any = None
    mm_processor_kwargs: Any = None

    def check(self) -> None:
        """Raise APIError for what the types allow but the server does not."""
        super().check()
        check_count("messages", self.messages)
        if not self.messages:
            raise APIError(400, "messages must hold at least one message", "messages")
        if self.top_logprobs and not self.logprobs:
            raise APIError(400, "top_logprobs: only with logprobs=true", "top_logprobs")
        if self.add_generation_prompt and self.continue_final_message:
            raise APIError(
                400,
                "continue_final_message: only with add_generation_prompt=false",
                "continue_final_message",
            )
        if self.logprobs and self.top_logprobs is not None:
            with bad_input(self.__struct_fields__):
                check_integer("top_logprobs", self.top_logprobs, 0, MAX_LOGPROBS)

    def wanted(self) -> Wanted:
        name, max_tokens = "max_tokens", self.max_tokens
        if self.max_completion_tokens is not None:
            name, max_tokens = "max_completion_tokens", self.max_completion_tokens
        logprobs = (self.top_logprobs or 0) if self.logprobs else None
        return Wanted(max_tokens, None, logprobs, FieldNames("messages", name, "top_logprobs"))
