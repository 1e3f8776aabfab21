"""OpenAI's batch files: a request a line in, an answer a line out, in the same order.

Source: the Batch API reference; vLLM's `run-batch`.
"""

from __future__ import annotations

import asyncio
import uuid
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO

import msgspec
from starlette.types import ASGIApp

from octavo.server.asgi_call import call

PATHS = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/responses",
    "/v1/embeddings",
    "/v1/score",
    "/v1/rerank",
)


class BatchLine(msgspec.Struct, forbid_unknown_fields=True):
    """A line of the input."""

    custom_id: str
    method: str
    url: str
    body: dict[str, msgspec.Raw]


@dataclass(slots=True)
class BatchCounts:
    """Lines so far, and those of them that were not answered with 200."""

    num_done: int = 0
    num_failed: int = 0


async def run_batch(
    app: ASGIApp,
    lines: BinaryIO,
    output: BinaryIO,
    *,
    most_at_once: int,
    max_line_bytes: int,
    on_line: Callable[[BatchCounts], None] | None = None,
) -> BatchCounts:
    """Answer every line, `most_at_once` at a time; what is wrong with a line is its answer.

    Of the input no more is read than runs, and what is answered is written as soon as all before it is.
    """
    counts = BatchCounts()
    running: deque[asyncio.Task[tuple[bool, bytes]]] = deque()

    async def write_first() -> None:
        answered, line = await running.popleft()
        output.write(line + b"\n")
        counts.num_done += 1
        counts.num_failed += not answered
        if on_line is not None:
            on_line(counts)

    try:
        while line := lines.readline(max_line_bytes + 1):
            too_long = len(line) > max_line_bytes
            while line and not line.endswith(b"\n") and too_long:
                line = lines.readline(max_line_bytes)
            if not line.strip() and not too_long:
                continue
            task = _too_long(max_line_bytes) if too_long else _answer(app, line)
            running.append(asyncio.create_task(task))
            while len(running) >= most_at_once or (running and running[0].done()):
                await write_first()
        while running:
            await write_first()
    finally:
        for each in running:
            each.cancel()
        await asyncio.gather(*running, return_exceptions=True)
    return counts


async def _answer(app: ASGIApp, line: bytes) -> tuple[bool, bytes]:
    """Whether a line was answered with 200, and the line of output."""
    try:
        request = msgspec.json.decode(line, type=BatchLine)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        return False, _error(_custom_id(line), f"the line is no request: {error}")
    if request.method != "POST":
        return False, _error(request.custom_id, f"method must be POST, got {request.method[:50]!r}")
    if request.url not in PATHS:
        return False, _error(
            request.custom_id, f"url must be one of {', '.join(PATHS)}; got {request.url[:100]!r}"
        )
    if request.body.get("stream") == msgspec.Raw(b"true"):
        return False, _error(request.custom_id, "stream: an answer in a file is not streamed")
    status, body = await call(app, request.url, msgspec.json.encode(request.body))
    response = {"status_code": status, "request_id": uuid.uuid4().hex, "body": msgspec.Raw(body)}
    return status == 200, _line(request.custom_id, response, None)


async def _too_long(most: int) -> tuple[bool, bytes]:
    return False, _error(None, f"the line is longer than {most} bytes (--max-request-bytes)")


def _error(custom_id: str | None, message: str) -> bytes:
    return _line(custom_id, None, {"code": "invalid_request", "message": message})


def _line(custom_id: str | None, response: Any, error: Any) -> bytes:
    batch_id = f"batch_req_{uuid.uuid4().hex}"
    return msgspec.json.encode({"id": batch_id, "custom_id": custom_id, "response": response, "error": error})


def _custom_id(line: bytes) -> str | None:
    """That of a line which is wrong in another way."""
    try:
        found = msgspec.json.decode(line, type=dict[str, Any]).get("custom_id")
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    return found if isinstance(found, str) else None
