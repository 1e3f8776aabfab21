"""`GET /`: the built-in page, whose files are part of the package, and the live view that it shows.

The files are read once. Nothing is fetched from any other host, and the browser is told to allow nothing
else: the policy names neither inline code nor other origins.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from importlib.resources import files

from fastapi import APIRouter, Request, Response

from octavo.observe.live_feed import FeedFullError
from octavo.server.errors import APIError
from octavo.server.serving import serving_of
from octavo.server.sse import start_stream

router = APIRouter()

_MEDIA_TYPES = {
    "css": "text/css; charset=utf-8",
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Cache-Control": "no-cache",
}


@dataclass(frozen=True, slots=True)
class StaticFile:
    """A file of the page and the headers that it is sent with."""

    content: bytes
    headers: dict[str, str]


@cache
def static_files() -> dict[str, StaticFile]:
    """The files of the page by name."""
    found = {}
    for path in (files("octavo.server") / "static").iterdir():
        content = path.read_bytes()
        etag = f'"{sha256(content).hexdigest()[:32]}"'
        kind = _MEDIA_TYPES[path.name.rsplit(".", 1)[-1]]
        found[path.name] = StaticFile(content, {**_HEADERS, "Content-Type": kind, "ETag": etag})
    return found


@router.api_route("/", methods=["GET", "HEAD"], include_in_schema=False)
async def page(request: Request) -> Response:
    """The page."""
    return _respond(request, "index.html")


@router.api_route("/page/{name}", methods=["GET", "HEAD"], include_in_schema=False)
async def file(request: Request, name: str) -> Response:
    """A file that the page needs."""
    return _respond(request, name)


@router.get("/octavo/live", include_in_schema=False)
async def live(request: Request) -> Response:
    """Events until the client leaves; see `octavo.observe.live_events`.

    A browser must ask for a page of this server: what others send here is not for any site that a user
    visits, even where CORS lets that site send requests of its own.
    """
    if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        raise APIError(403, "the live view is for this server's own page")
    try:
        return await start_stream(request, serving_of(request).state.watch())
    except FeedFullError as error:
        raise APIError(503, str(error)) from error


def _respond(request: Request, name: str) -> Response:
    found = static_files().get(name)
    if found is None:
        raise APIError(404, f"no such path: {request.url.path}")
    if request.headers.get("if-none-match") == found.headers["ETag"]:
        return Response(status_code=304, headers=found.headers)
    return Response(found.content, headers=found.headers)
