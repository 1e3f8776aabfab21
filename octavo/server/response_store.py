"""Responses that later requests may go on with: the most recently used ones, as far as they fit."""

from __future__ import annotations

from collections import OrderedDict

MAX_CHARACTERS = 64 << 20
"""Text of all stored conversations together."""


class ResponseStore:
    """At most `most` responses of MAX_CHARACTERS in all, encoded; the least recently used goes first.

    Responses belong to the one whose key made them: another asks for them in vain.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._entries: OrderedDict[tuple[str, str], tuple[bytes, int]] = OrderedDict()
        self._num_characters = 0

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, owner: str, response_id: str, encoded: bytes, num_characters: int) -> None:
        """Keep a response; one that is too long by itself is not kept."""
        if num_characters > MAX_CHARACTERS:
            return
        self._entries[owner, response_id] = encoded, num_characters
        self._num_characters += num_characters
        while len(self._entries) > self._most or self._num_characters > MAX_CHARACTERS:
            _, (_, oldest) = self._entries.popitem(last=False)
            self._num_characters -= oldest

    def get(self, owner: str, response_id: str) -> bytes | None:
        """A response, used now."""
        found = self._entries.get((owner, response_id))
        if found is None:
            return None
        self._entries.move_to_end((owner, response_id))
        return found[0]

    def delete(self, owner: str, response_id: str) -> bool:
        """Forget a response; whether it was there."""
        found = self._entries.pop((owner, response_id), None)
        if found is None:
            return False
        self._num_characters -= found[1]
        return True
