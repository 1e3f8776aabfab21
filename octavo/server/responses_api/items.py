"""The `input` of a response: a text, or items, as the messages of a conversation."""

from __future__ import annotations

from typing import Any

from octavo.server.errors import APIError
from octavo.server.requests.chat_request import Message, check_count

ROLES = ("user", "assistant", "system", "developer")
_TEXT_PARTS = ("input_text", "output_text", "text")


def messages_of(given: str | list[dict[str, Any]]) -> list[Message]:
    """The messages; raises APIError that names the item which is not text of somebody."""
    if isinstance(given, str):
        return [Message("user", given)]
    if not given:
        raise APIError(400, "input must not be empty", "input")
    check_count("input", given)
    return [_message(f"input[{index}]", item) for index, item in enumerate(given)]


def items_of(given: str | list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The input as items with ids, as `GET /v1/responses/{id}/input_items` lists them."""
    if isinstance(given, str):
        given = [{"role": "user", "content": given}]
    return [
        {
            "id": f"item_{index}",
            "type": "message",
            "status": "completed",
            "role": message.role,
            "content": [
                {
                    "type": "output_text" if message.role == "assistant" else "input_text",
                    "text": message.content,
                    **({"annotations": []} if message.role == "assistant" else {}),
                }
            ],
        }
        for index, message in enumerate(messages_of(given))
    ]


def _message(path: str, item: dict[str, Any]) -> Message:
    kind = item.get("type", "message")
    if kind != "message":
        raise APIError(400, f"{path}: items of type {kind!r:.60} are not supported, only messages", path)
    role, content = item.get("role"), item.get("content")
    if role not in ROLES:
        raise APIError(400, f"{path}.role must be one of {', '.join(ROLES)}; got {role!r:.60}", path)
    if isinstance(content, str):
        return Message(role, content)
    if not isinstance(content, list):
        raise APIError(400, f"{path}.content must be text or a list of parts", path)
    texts = []
    for index, part in enumerate(content):
        found = part.get("type") if isinstance(part, dict) else None
        text = part.get("text") if isinstance(part, dict) else None
        if found not in _TEXT_PARTS or not isinstance(text, str):
            where = f"{path}.content[{index}]"
            raise APIError(400, f"{where}: only parts of text are supported, got type {found!r:.60}", where)
        texts.append(text)
    return Message(role, "\n".join(texts))
