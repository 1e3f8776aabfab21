"""A bound on the size of a request's headers."""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

from octavo.server.errors import APIError, error_response


class HeaderLimitMiddleware:
    """Answers 431 to a request whose headers, target line included, are over `max_bytes` or `max_count`.

    The HTTP parser has bounds of its own on what it keeps of a request that is not complete; those alone let
    through what comes in one piece.
    """

    def __init__(self, app: ASGIApp, max_bytes: int, max_count: int) -> None:
        self._app = app
        self._max_bytes = max_bytes
        self._max_count = max_count

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            headers = scope["headers"]
            size = len(scope["raw_path"] or b"") + len(scope["query_string"])
            size += sum(len(name) + len(value) + 4 for name, value in headers)
            if size > self._max_bytes or len(headers) > self._max_count:
                message = (
                    f"{len(headers)} headers of {size} bytes are over this server's {self._max_count} or "
                    f" {self._max_bytes} bytes (--h11-max-header-count, --h11-max-incomplete-event-size)"
                )
                error = APIError(431, message)
                await error_response(error, {"Connection": "close"}, scope["path"])(scope, receive, send)
                return
        await self._app(scope, receive, send)
