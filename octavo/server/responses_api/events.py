"""The events of a streamed response, in the order and with the fields of OpenAI's Responses API."""

from __future__ import annotations

from typing import Any

import msgspec

from octavo.server.errors import error_body
from octavo.server.openai.responses import TokenLogprob
from octavo.server.responses_api.response import OutputMessage, OutputText, ResponseObject

_encode = msgspec.json.Encoder().encode


class EventWriter:
    """Numbers and writes the events of one response, whose only item is one message of one text."""

    def __init__(self, response: ResponseObject, message: OutputMessage) -> None:
        self._response = response
        self._message = message
        self._number = -1
        self._place = {"item_id": message.id, "output_index": 0, "content_index": 0}

    def begin(self) -> bytes:
        """The response is there, and its message and text begin."""
        return (
            self._event("response.created", response=self._response)
            + self._event("response.in_progress", response=self._response)
            + self._event("response.output_item.added", output_index=0, item=self._message)
            + self._event("response.content_part.added", **self._place, part=OutputText(""))
        )

    def delta(self, text: str, logprobs: list[TokenLogprob]) -> bytes:
        """More text."""
        return self._event("response.output_text.delta", **self._place, delta=text, logprobs=logprobs)

    def end(self) -> bytes:
        """Text, message and response are finished, as they are now."""
        [text] = self._message.content
        return (
            self._event("response.output_text.done", **self._place, text=text.text, logprobs=text.logprobs)
            + self._event("response.content_part.done", **self._place, part=text)
            + self._event("response.output_item.done", output_index=0, item=self._message)
            + self._event(f"response.{self._response.status}", response=self._response)
        )

    def failed(self, error: Exception) -> bytes:
        """An error cut the stream off. Beside the API's fields it has `error`, which its clients raise."""
        info = error_body(error).error
        return self._event("error", code=info.type, message=info.message, param=info.param, error=info)

    def _event(self, kind: str, **fields: Any) -> bytes:
        self._number += 1
        content = _encode({"type": kind, "sequence_number": self._number, **fields})
        return b"event: %b\ndata: %b\n\n" % (kind.encode(), content)
