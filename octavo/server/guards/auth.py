"""API keys: /v1 requests and the live view carry one, the rest (health, metrics) is open as vLLM's is."""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from hashlib import sha256

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from octavo.server.errors import APIError, error_response

GUARDED = (
    "/v1",
    "/v2",
    "/octavo/",
    "/api/",
    "/tokenize",
    "/detokenize",
    "/reset_prefix_cache",
    "/invocations",
)


class APIKeyMiddleware:
    """Refuse guarded requests, preflights apart, that carry none of `keys` as their bearer token, with 401.

    Keys are compared as digests in constant time, all of them each time: how long the answer takes tells
    neither how much of a guess was right nor which key it was near.
    """

    def __init__(self, app: ASGIApp, keys: Sequence[str]) -> None:
        self._app = app
        self._digests = [_digest(key) for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] != "OPTIONS":
            path = scope["path"].removeprefix(scope.get("root_path", ""))
            if path.startswith(GUARDED) and not self._allows(Headers(scope=scope)):
                error = APIError(401, "give a valid API key in the header `Authorization: Bearer KEY`")
                challenge = {"WWW-Authenticate": "Bearer"}
                await error_response(error, challenge, path)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _allows(self, headers: Headers) -> bool:
        given = _digest(api_key(headers))
        matches = [hmac.compare_digest(given, digest) for digest in self._digests]
        return any(matches)


def api_key(headers: Headers) -> str:
    """The key that a request carries, "" without one."""
    if "x-api-key" in headers:  # as Anthropic's clients send it
        return headers["x-api-key"].strip()
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def _digest(key: str) -> bytes:
    return sha256(key.encode("utf-8", "surrogateescape")).digest()
