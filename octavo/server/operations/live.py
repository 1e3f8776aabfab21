"""`GET /octavo/live`: what the engine does, as server-sent events, for the page."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from octavo.observe.live_feed import FeedFullError
from octavo.server.errors import APIError
from octavo.server.serving import serving_of
from octavo.server.sse import start_stream

router = APIRouter()


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
