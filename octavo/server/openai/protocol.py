"""Request bodies of the OpenAI API with vLLM's additions; a field that is not declared here is refused.

Null always means the default. Sources: the OpenAI API reference (completions, chat completions) and vLLM's
OpenAI-compatible server.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from octavo.server.errors import APIError
from octavo.server.requests.generation_request import GenerationRequest

MAX_MESSAGES = 1 << 16


def check_count(name: str, messages: Sequence[Any]) -> None:
    """Raise APIError for more messages than a request may have."""
    if len(messages) > MAX_MESSAGES:
        raise APIError(400, f"{name} takes at most {MAX_MESSAGES} messages, got {len(messages)}", name)


class CompletionRequest(GenerationRequest, kw_only=True, forbid_unknown_fields=True):
    """The body of `POST /v1/completions`; `prompt` is text or token ids, or a list of either."""

    prompt: str | list[str | int | list[int]]
    logprobs: int | None = None
    suffix: str | None = None
    prompt_embeds: Any = None

    def check(self) -> None:
        """Raise APIError for what the types allow but the server does not."""
        super().check()
        if self.echo and self.stream and self.logprobs is not None and (self.n or 1) > 1:
            raise APIError(400, "echo: with logprobs and stream=true, only with n=1", "echo")


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
