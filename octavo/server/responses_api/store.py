"""Responses that later requests may go on with: the most recently used ones, as far as they fit."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from octavo.server.protocol import Message
from octavo.server.responses_api.response import ResponseObject

MAX_CHARACTERS = 64 << 20
"""Text of all stored conversations together."""
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


class ResponseStore:
    """At most `most` responses of MAX_CHARACTERS in all; the least recently used goes first.

    Responses belong to the one whose key made them: another asks for them in vain.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._entries: OrderedDict[tuple[str, str], StoredResponse] = OrderedDict()
        self._num_characters = 0

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, owner: str, entry: StoredResponse) -> None:
        """Keep a response; one that is too long by itself is not kept."""
        size = entry.num_characters
        if size > MAX_CHARACTERS:
            return
        self._entries[owner, entry.response.id] = entry
        self._num_characters += size
        while len(self._entries) > self._most or self._num_characters > MAX_CHARACTERS:
            _, oldest = self._entries.popitem(last=False)
            self._num_characters -= oldest.num_characters

    def get(self, owner: str, response_id: str) -> StoredResponse | None:
        """A response, used now."""
        entry = self._entries.get((owner, response_id))
        if entry is not None:
            self._entries.move_to_end((owner, response_id))
        return entry

    def delete(self, owner: str, response_id: str) -> bool:
        """Forget a response; whether it was there."""
        entry = self._entries.pop((owner, response_id), None)
        if entry is None:
            return False
        self._num_characters -= entry.num_characters
        return True
