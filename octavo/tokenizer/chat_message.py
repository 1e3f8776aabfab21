"""OpenAI chat messages, in the form that chat templates expect."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

MAX_MESSAGES = 100_000
TEXT_PART_SEPARATOR = "\n"
"""Between the text parts of a content that a template takes as one string."""


def normalise_messages(messages: Sequence[Mapping[str, Any]], *, as_parts: bool) -> list[dict[str, Any]]:
    """Copies of `messages` with content as one string, or with `as_parts` as a list of text parts.

    Content may come as a string or as a list of `{"type": "text", "text": ...}`. Keys whose value is None go
    (templates test whether a key is there), and the arguments of tool calls, JSON text in OpenAI's API,
    become objects. The given messages are not changed.
    Raises ValueError naming what is wrong, as in `messages[2].content[0]`.
    """
    if isinstance(messages, str) or not isinstance(messages, Sequence) or not messages:
        raise ValueError("messages must be a list of at least one message")
    if len(messages) > MAX_MESSAGES:
        raise ValueError(f"messages: at most {MAX_MESSAGES} are allowed, got {len(messages)}")
    return [_message(message, f"messages[{index}]", as_parts) for index, message in enumerate(messages)]


def _message(message: Mapping[str, Any], name: str, as_parts: bool) -> dict[str, Any]:
    if not isinstance(message, Mapping):
        raise ValueError(f"{name} must be an object with role and content, got {type(message).__name__}")
    result = {key: value for key, value in message.items() if value is not None}
    if not isinstance(result.get("role"), str):
        raise ValueError(f"{name}.role must be a string, got {result.get('role')!r}")
    if "content" in result:
        texts = _texts(result["content"], f"{name}.content")
        if as_parts:
            result["content"] = [{"type": "text", "text": text} for text in texts]
        else:
            result["content"] = TEXT_PART_SEPARATOR.join(texts)
    elif not result.get("tool_calls"):
        raise ValueError(f"{name}.content is missing; only a message with tool_calls may be without")
    if "tool_calls" in result:
        result["tool_calls"] = _tool_calls(result["tool_calls"], f"{name}.tool_calls")
    return result


def _texts(content: Any, name: str) -> list[str]:
    """The text of a content, part by part."""
    if isinstance(content, str):
        return [content]
    if not isinstance(content, Sequence):
        raise ValueError(f"{name} must be a string or a list of text parts, got {type(content).__name__}")
    texts = []
    for index, part in enumerate(content):
        kind = part.get("type") if isinstance(part, Mapping) else None
        text = part.get("text") if isinstance(part, Mapping) else part
        if not isinstance(text, str) or (isinstance(part, Mapping) and kind != "text"):
            raise ValueError(
                f'{name}[{index}] must be {{"type": "text", "text": "..."}}; '
                + (f"type {kind!r} is not supported" if kind not in (None, "text") else f"got {part!r:.80}")
            )
        texts.append(text)
    return texts


def _tool_calls(calls: Any, name: str) -> list[Any]:
    if not isinstance(calls, Sequence) or isinstance(calls, str):
        raise ValueError(f"{name} must be a list, got {type(calls).__name__}")
    result = []
    for index, call in enumerate(calls):
        function = call.get("function") if isinstance(call, Mapping) else None
        if not isinstance(function, Mapping):
            raise ValueError(f"{name}[{index}].function must be an object with name and arguments")
        arguments = function.get("arguments", {})
        if isinstance(arguments, str):
            arguments = _arguments(arguments, f"{name}[{index}].function.arguments")
        result.append({**call, "function": {**function, "arguments": arguments}})
    return result


def _arguments(text: str, name: str) -> Any:
    try:
        return json.loads(text) if text.strip() else {}
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{name} must be JSON: {error}") from error
