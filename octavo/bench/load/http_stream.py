"""A POST whose answer is read piece by piece: HTTP/1.1 over asyncio, parsed by h11."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
import time
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

import h11

READ_TIMEOUT = 3600.0
"""Longest wait for the next piece of an answer, in seconds."""
_PIECE = 1 << 16
_LONGEST_ERROR = 4096


class RequestError(Exception):
    """The server refused the request (`status`), or gave no answer (`status` 0)."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class HTTPClient:
    """Requests to one server, each on a connection of its own."""

    def __init__(self, url: str, api_key: str | None) -> None:
        """`url` begins with http:// or https://."""
        parts = urlsplit(url)
        self._host = parts.hostname or ""
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._port = parts.port or (443 if self._tls else 80)
        self._prefix = parts.path
        self._headers = [("Host", parts.netloc.rpartition("@")[2]), ("Connection", "close")]
        if api_key:
            self._headers.append(("Authorization", f"Bearer {api_key}"))

    @contextlib.asynccontextmanager
    async def request(
        self, method: str, path: str, body: dict[str, Any] | None = None
    ) -> AsyncIterator[Answer]:
        """The answer, once it begins. Raises RequestError for any status but 200."""
        try:
            reader, writer = await asyncio.open_connection(self._host, self._port, ssl=self._tls)
        except OSError as error:
            raise RequestError(0, f"{self._host} port {self._port} does not answer: {error}") from error
        try:
            answer = Answer(reader)
            data = b"" if body is None else json.dumps(body).encode()
            headers = [
                *self._headers,
                ("Content-Type", "application/json"),
                ("Content-Length", str(len(data))),
            ]
            target = self._prefix + path
            for event in (h11.Request(method=method, target=target, headers=headers), h11.Data(data=data)):
                writer.write(answer.connection.send(event) or b"")
            writer.write(answer.connection.send(h11.EndOfMessage()) or b"")
            answer.sent = time.perf_counter()
            await answer.begin()
            yield answer
        except (OSError, EOFError, TimeoutError, h11.RemoteProtocolError) as error:
            raise RequestError(0, f"the connection broke: {error or type(error).__name__}") from error
        finally:
            writer.close()

    async def json(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """An answer that is JSON. Raises RequestError as `request` does, or when it is not."""
        async with self.request(method, path, body) as answer:
            text = b"".join([piece async for piece in answer.pieces()])
        try:
            return json.loads(text)
        except ValueError as error:
            raise RequestError(0, f"{path} answered no JSON: {text[:80]!r}") from error


class Answer:
    """What a server answers. `sent` is when the request was written, by `time.perf_counter()`."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self.connection = h11.Connection(h11.CLIENT)
        self.sent = 0.0
        self._reader = reader

    async def begin(self) -> None:
        """Read up to the headers. Raises RequestError for any status but 200."""
        event = await self._next()
        while isinstance(event, h11.InformationalResponse):
            event = await self._next()
        if not isinstance(event, h11.Response):
            raise RequestError(0, "the server closed the connection")
        if event.status_code != 200:
            text = b""
            async for piece in self.pieces():
                text += piece
                if len(text) > _LONGEST_ERROR:
                    break
            raise RequestError(event.status_code, _message(event.status_code, text))

    async def pieces(self) -> AsyncIterator[bytes]:
        """The body as it comes."""
        while True:
            event = await self._next()
            if isinstance(event, h11.Data):
                yield bytes(event.data)
            elif isinstance(event, h11.EndOfMessage | h11.ConnectionClosed):
                return

    async def events(self) -> AsyncIterator[bytes]:
        """The data of server-sent events, one line each, without the end marker."""
        rest = b""
        async for piece in self.pieces():
            *lines, rest = (rest + piece).split(b"\n")
            for line in lines:
                data = line.removeprefix(b"data:").strip() if line.startswith(b"data:") else b""
                if data and data != b"[DONE]":
                    yield data

    async def _next(self) -> Any:
        while (event := self.connection.next_event()) is h11.NEED_DATA:
            async with asyncio.timeout(READ_TIMEOUT):
                self.connection.receive_data(await self._reader.read(_PIECE))
        return event


def _message(status: int, text: bytes) -> str:
    try:
        error = json.loads(text)["error"]
        message = error["message"] if isinstance(error, dict) else error
    except (ValueError, KeyError, TypeError):
        message = text.decode("utf-8", "replace")
    return f"HTTP {status}: {' '.join(str(message).split())[:300]}"
