"""A model behind an OpenAI-compatible server, as text that comes piece by piece."""

from __future__ import annotations

import contextlib
import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

from octavo.cli.errors import CommandError

TIMEOUT_SECONDS = 600


class RemoteModel:
    """The first model of the server at `url`, with or without /v1 at its end."""

    def __init__(self, url: str, api_key: str | None) -> None:
        """Raises CommandError when nothing answers there, ValueError when `url` is not one."""
        if not url.startswith(("http://", "https://")):
            raise ValueError(f"url (--url) must begin with http:// or https://, got {url!r}")
        self._base = url.rstrip("/").removesuffix("/v1")
        self._headers = {"Content-Type": "application/json"}
        if api_key:
            self._headers["Authorization"] = f"Bearer {api_key}"
        with self._open("/v1/models", None) as response:
            models = json.load(response)["data"]
        self.name: str = models[0]["id"]

    def chat(self, messages: list[dict[str, str]], fields: dict[str, Any]) -> Iterator[str]:
        """The answer to a conversation."""
        for choice in self._stream("/v1/chat/completions", {"messages": messages}, fields):
            yield choice["delta"].get("content") or ""

    def complete(self, prompt: str, fields: dict[str, Any]) -> Iterator[str]:
        """The completion of a text."""
        for choice in self._stream("/v1/completions", {"prompt": prompt}, fields):
            yield choice["text"]

    def close(self) -> None:
        """Nothing is kept open."""

    def _stream(self, path: str, body: dict[str, Any], fields: dict[str, Any]) -> Iterator[dict[str, Any]]:
        with self._open(path, {"model": self.name, "stream": True, **body, **fields}) as response:
            for line in response:
                data = line.removeprefix(b"data: ").strip()
                if not data or data == b"[DONE]" or data.startswith(b":"):
                    continue
                chunk = json.loads(data)
                if "error" in chunk:
                    raise CommandError(f"{self._base}: {chunk['error']['message']}")
                yield from chunk["choices"]

    @contextlib.contextmanager
    def _open(self, path: str, body: dict[str, Any] | None) -> Iterator[Any]:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._base + path, data, self._headers)
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as response:
                yield response
        except urllib.error.HTTPError as error:
            raise CommandError(f"{self._base}: {_message(error)}") from error
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", error)
            raise CommandError(f"{self._base} does not answer (--url): {reason}") from error


def _message(error: urllib.error.HTTPError) -> str:
    try:
        return str(json.load(error)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return str(error)
