"""A request to the application without a socket."""

from __future__ import annotations

import asyncio

from starlette.types import ASGIApp, Message


async def call(app: ASGIApp, path: str, body: bytes) -> tuple[int, bytes]:
    """The status and the body that `app` answers to a POST of JSON; cancelling it cancels the request."""
    status = 500
    parts: list[bytes] = []
    pending: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Message:
        if not pending:
            await asyncio.Event().wait()  # The client never leaves.
        return pending.pop()

    async def send(message: Message) -> None:
        nonlocal status
        if message["type"] == "http.response.start":
            status = message["status"]
        elif message["type"] == "http.response.body":
            parts.append(message.get("body", b""))

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))],
        "client": None,
        "server": None,
    }
    await app(scope, receive, send)
    return status, b"".join(parts)
