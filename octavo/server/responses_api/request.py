"""The body of `POST /v1/responses`: OpenAI's Responses API, for text, with vLLM's sampling fields.

Source: the Responses API reference.
"""

from __future__ import annotations

from typing import Any

from octavo.server.errors import APIError
from octavo.server.requests.chat_request import ChatCompletionRequest, Message
from octavo.server.requests.generation_request import FieldNames
from octavo.server.requests.output_form import OutputForm, from_structured_outputs, from_text_format, the_form
from octavo.server.requests.sampling_request import SamplingRequest
from octavo.server.responses_api.items import messages_of

FIELD_NAMES = FieldNames("input", "max_output_tokens", "top_logprobs")
LOGPROBS = "message.output_text.logprobs"
MAX_METADATA = 16
MAX_METADATA_KEY = 64
MAX_METADATA_VALUE = 512


class ResponsesRequest(SamplingRequest, kw_only=True, forbid_unknown_fields=True):
    """What to answer, after what came before by `previous_response_id`; null means the default."""

    input: str | list[dict[str, Any]]
    model: str | None = None
    instructions: str | None = None
    previous_response_id: str | None = None
    max_output_tokens: int | None = None
    store: bool | None = None
    metadata: dict[str, str] | None = None
    include: list[str] | None = None
    top_logprobs: int | None = None
    chat_template_kwargs: dict[str, Any] | None = None

    # See WITHOUT_EFFECT.
    stream_options: dict[str, Any] | None = None
    prompt_cache_options: dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    max_tool_calls: int | None = None

    text: dict[str, Any] | None = None

    # Refused, unless they ask for what happens anyway.
    reasoning: dict[str, Any] | None = None
    truncation: str | None = None
    tools: list[Any] | None = None
    tool_choice: Any = None
    background: bool | None = None
    conversation: Any = None
    prompt: Any = None
    context_management: Any = None
    moderation: Any = None

    def check(self) -> None:
        """Raise APIError for what the types above allow but the server does not."""
        for name, what in UNSUPPORTED.items():
            value = getattr(self, name)
            if value and value not in HARMLESS.get(name, ()):
                raise APIError(400, f"{name}: {what} is not supported", name)
        self._check_text()
        for name in self.include or ():
            if name != LOGPROBS:
                raise APIError(400, f"include: {name[:100]!r} is not supported, only {LOGPROBS!r}", "include")
        if any(value is not None for value in (self.reasoning or {}).values()):
            raise APIError(400, "reasoning: thinking apart from the answer is not supported", "reasoning")
        metadata = self.metadata or {}
        if (
            len(metadata) > MAX_METADATA
            or any(len(key) > MAX_METADATA_KEY for key in metadata)
            or any(len(value) > MAX_METADATA_VALUE for value in metadata.values())
        ):
            raise APIError(
                400,
                f"metadata takes at most {MAX_METADATA} keys of {MAX_METADATA_KEY} characters with values of "
                f"{MAX_METADATA_VALUE}",
                "metadata",
            )

    def _check_text(self) -> None:
        for name, value in (self.text or {}).items():
            if name == "format":
                if not isinstance(value, dict | None):
                    raise APIError(400, "text.format must be an object", "text.format")
            elif name != "verbosity" or value not in (None, "medium"):
                raise APIError(400, f"text.{name[:100]} is not supported", f"text.{name[:100]}")

    def output_form(self) -> OutputForm | None:
        """The form that the answer must have, if any; raises APIError for one that can not be."""
        return the_form(
            (
                from_text_format((self.text or {}).get("format"), "text.format"),
                from_structured_outputs(self.structured_outputs),
            )
        )

    @property
    def wants_logprobs(self) -> bool:
        """Whether the response carries log probabilities."""
        return self.top_logprobs is not None or LOGPROBS in (self.include or ())

    def chat(self, before: tuple[Message, ...]) -> ChatCompletionRequest:
        """The same request as a chat completion, `before` being the conversation that it goes on with.

        Raises APIError for input that is not text. Earlier instructions are not carried over, as in OpenAI's.
        """
        opening = [Message("system", self.instructions)] if self.instructions else []
        body = ChatCompletionRequest(messages=[*opening, *before, *messages_of(self.input)])
        for name in (*SamplingRequest.__struct_fields__, "chat_template_kwargs"):
            setattr(body, name, getattr(self, name))
        body.max_tokens = self.max_output_tokens
        body.logprobs, body.top_logprobs = self.wants_logprobs, self.top_logprobs
        return body


UNSUPPORTED = {
    "truncation": "cutting the conversation",
    "tools": "tool calling",
    "tool_choice": "tool calling",
    "background": "answering in the background",
    "conversation": "OpenAI's store of conversations",
    "prompt": "OpenAI's store of prompts",
    "context_management": "compacting the conversation",
    "moderation": "moderation",
}
WITHOUT_EFFECT = frozenset(
    {
        "max_tool_calls",
        "parallel_tool_calls",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "safety_identifier",
        "service_tier",
        "stream_options",
    }
)
HARMLESS: dict[str, tuple[Any, ...]] = {"truncation": ("disabled",), "tool_choice": ("none", "auto")}
