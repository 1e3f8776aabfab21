"""`GET /octavo/live`: what the engine does, as server-sent events, for the page."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi import APIRouter, Request, Response

import octavo
from octavo.observe.live_events import Hello, Second
from octavo.observe.live_feed import FeedFullError, LiveFeed
from octavo.server.errors import APIError
from octavo.server.sse import start_stream

if TYPE_CHECKING:
    from octavo.server.serving import Serving

router = APIRouter()


@router.get("/octavo/live", include_in_schema=False)
async def live(request: Request) -> Response:
    """Events until the client leaves; see `octavo.observe.live_events`.

    A browser must ask for a page of this server: what others send here is not for any site that a user
    visits, even where CORS lets that site send requests of its own.
    """
    if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        raise APIError(403, "the live view is for this server's own page")
    feed = request.app.state.live_feed
    assert isinstance(feed, LiveFeed)
    try:
        return await start_stream(request, feed.watch())
    except FeedFullError as error:
        raise APIError(503, str(error)) from error


def make_feed(serving: Serving) -> LiveFeed:
    """The feed of a server."""
    engine = serving.engine

    def hello(seconds: list[Second]) -> Hello:
        config, ready = engine.config, engine.ready
        return Hello(
            version=octavo.__version__,
            models=serving.model_names,
            isa=ready.isa,
            block_size=config.block_size,
            num_blocks=ready.num_blocks,
            kv_cache_bytes=ready.kv_cache_bytes,
            max_model_len=engine.max_model_len,
            max_num_seqs=config.max_num_seqs,
            max_num_batched_tokens=config.max_num_batched_tokens,
            shows_text=serving.config.page_show_text,
            seconds=seconds,
        )

    return LiveFeed(engine, serving.metrics, hello, show_text=serving.config.page_show_text)
