"""What is kept of a response for later requests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from octavo.server.requests.chat_request import Message
from octavo.server.responses_api.response import ResponseObject

_OVERHEAD = 1000
"""Characters that a response counts beside its text."""


@dataclass(slots=True)
class StoredResponse:
    """A response, the items that were asked, and the conversation with the answer at its end."""

    response: ResponseObject
    input_items: list[dict[str, Any]]
    conversation: tuple[Message, ...]

    @property
    def num_characters(self) -> int:
        """What it counts: all of its conversation, though messages are shared with those before it."""
        return _OVERHEAD + sum(100 + len(message.content or "") for message in self.conversation)

    def encode(self) -> bytes:
        """As bytes, which `decode_stored` reads."""
        # MessagePack has no integers as large as a request may hold.
        return msgspec.json.encode(self)


def decode_stored(encoded: bytes) -> StoredResponse:
    """What `StoredResponse.encode` wrote."""
    return msgspec.json.decode(encoded, type=StoredResponse)
