"""The chunks of a stream of OpenAI's API: what one costs is a small struct's encoding."""

from __future__ import annotations

from typing import Any

import msgspec

from octavo.server.openai.responses import Usage

_encode = msgspec.json.Encoder().encode


class ChunkEncoder:
    """The chunks of one stream; what they share (id, time, model) is encoded once."""

    def __init__(self, *, id: str, object: str, created: int, model: str, include_usage: bool) -> None:
        shared = _encode({"id": id, "object": object, "created": created, "model": model})
        self._head = b"data: " + shared[:-1] + b',"choices":['
        self._tail = b'],"usage":null}\n\n' if include_usage else b"]}\n\n"

    def chunk(
        self, choice: msgspec.Struct, usage: Usage | None = None, more: dict[str, Any] | None = None
    ) -> bytes:
        """The event for one choice; `more` goes beside `choices`."""
        if usage is None and more is None:
            return self._head + _encode(choice) + self._tail
        beside = {"usage": usage, **(more or {})}
        return b"%b%b],%b\n\n" % (self._head, _encode(choice), _encode(beside)[1:])

    def usage(self, usage: Usage) -> bytes:
        """The event after the last choice's, with the usage of the whole response."""
        return b'%b],"usage":%b}\n\n' % (self._head, _encode(usage))
