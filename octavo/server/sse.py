"""Server-sent events: what one costs is one send.

Source: the WHATWG HTML standard, section 9.2, in the form that OpenAI's clients read: a `data:` line with
a JSON object for each event, then `data: [DONE]`.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable

import msgspec
from fastapi import Request, Response
from starlette.types import Receive, Scope, Send

from octavo.server.errors import APIError, ClientDisconnectedError, error_body
from octavo.server.requests.disconnect import while_connected

logger = logging.getLogger(__name__)

DONE = b"data: [DONE]\n\n"

_encode = msgspec.json.Encoder().encode


class EventStream(Response):
    """A 200 whose body is events, the first of which is there already.

    An error on the way is sent as an event: the status is out. When the client leaves, `events` is closed.
    """

    def __init__(
        self,
        first: bytes,
        events: AsyncGenerator[bytes, None],
        failure: Callable[[Exception], bytes],
        media_type: str,
    ) -> None:
        self.media_type = media_type
        self.status_code = 200
        self.background = None
        self.body = b""
        self.init_headers({"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._first = first
        self._events = events
        self._failure = failure

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await while_connected(receive, self._send_events(send))
        except ClientDisconnectedError:
            return
        except Exception as error:
            if not isinstance(error, APIError):
                logger.exception("a stream failed")
            await _send(send, self._failure(error))
        finally:
            await self._events.aclose()
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _send_events(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await _send(send, self._first)
        async for event in self._events:
            await _send(send, event)


async def _send(send: Send, event: bytes) -> None:
    await send({"type": "http.response.body", "body": event, "more_body": True})


def failed(error: Exception) -> bytes:
    """The end of a stream that OpenAI's clients read as an error."""
    return b"data: %b\n\n%b" % (_encode(error_body(error)), DONE)


async def start_stream(
    request: Request,
    events: AsyncGenerator[bytes, None],
    failure: Callable[[Exception], bytes] = failed,
    media_type: str = "text/event-stream",
) -> EventStream:
    """The response for `events`, once the first is there: an error before it has its own HTTP status.

    `failure` writes the end of a stream that an error cuts off.
    """
    try:
        first = await while_connected(request.receive, anext(events))
    except BaseException:
        await events.aclose()
        raise
    return EventStream(first, events, failure, media_type)
