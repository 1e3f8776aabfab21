"""The events of a streamed response, in the order and with the fields of OpenAI's Responses API."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from octavo.server.errors import error_body
from octavo.server.openai.responses import TokenLogprob
from octavo.server.requests.answer import End, Event, Text
from octavo.server.responses_api.response import OutputMessage, OutputText, ResponseObject

_encode = msgspec.json.Encoder().encode


class EventWriter:
    """Numbers and writes the events of one response, whose only item is one message of one text."""

    def __init__(
        self, response: ResponseObject, role: str, logprobs_of: Callable[[Text], list[TokenLogprob]]
    ) -> None:
        self.response = response
        """As far as it is there; finished with the last event."""
        self.text = OutputText("")
        """What was answered so far."""
        self._message = OutputMessage(id=f"msg_{uuid.uuid4().hex}", role=role)
        self._logprobs_of = logprobs_of
        self._number = -1
        self._place = {"item_id": self._message.id, "output_index": 0, "content_index": 0}

    def write(self, events: Sequence[Event]) -> bytes:
        written = b""
        for event in events:
            if isinstance(event, Text):
                written += self._delta(event)
            elif isinstance(event, End):
                self._message.content = [self.text]
                self.response.finish(self._message, event)
                written += self._end()
            else:
                written += self._begin()
        return written

    def close(self) -> bytes:
        return b""

    def _begin(self) -> bytes:
        """The response is there, and its message and text begin."""
        return (
            self._event("response.created", response=self.response)
            + self._event("response.in_progress", response=self.response)
            + self._event("response.output_item.added", output_index=0, item=self._message)
            + self._event("response.content_part.added", **self._place, part=OutputText(""))
        )

    def _delta(self, event: Text) -> bytes:
        """More text."""
        logprobs = self._logprobs_of(event) if event.logprobs else []
        self.text.text += event.text
        self.text.logprobs += logprobs
        if not event.text and not logprobs:
            return b""
        return self._event("response.output_text.delta", **self._place, delta=event.text, logprobs=logprobs)

    def _end(self) -> bytes:
        """Text, message and response are finished, as they are now."""
        text = self.text
        return (
            self._event("response.output_text.done", **self._place, text=text.text, logprobs=text.logprobs)
            + self._event("response.content_part.done", **self._place, part=text)
            + self._event("response.output_item.done", output_index=0, item=self._message)
            + self._event(f"response.{self.response.status}", response=self.response)
        )

    def failed(self, error: Exception) -> bytes:
        """An error cut the stream off. Beside the API's fields it has `error`, which its clients raise."""
        info = error_body(error).error
        return self._event("error", code=info.type, message=info.message, param=info.param, error=info)

    def _event(self, kind: str, **fields: Any) -> bytes:
        self._number += 1
        content = _encode({"type": kind, "sequence_number": self._number, **fields})
        return b"event: %b\ndata: %b\n\n" % (kind.encode(), content)
