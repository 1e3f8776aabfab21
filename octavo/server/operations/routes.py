"""What operators and their tools ask of a server: whether it answers, how busy it is, its metrics.

All but `POST /reset_prefix_cache` are open to probes without a key, as vLLM's are.
"""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST

import octavo
from octavo.server.errors import APIError
from octavo.server.serving import serving_of

router = APIRouter()


@router.get("/health")
@router.api_route("/ping", methods=["GET", "POST"], include_in_schema=False)
async def health(request: Request) -> Response:
    """200 while requests are taken, 503 when the engine is down or the server is shutting down."""
    serving = serving_of(request)
    if serving.drain.begun:
        raise APIError(503, "the server is shutting down")
    if not serving.engine.healthy:
        raise APIError(503, "the engine is down")
    return Response()


@router.get("/load")
async def load(request: Request) -> dict[str, int]:
    """How many requests are open, those of probes and monitoring apart; vLLM's."""
    return {"server_load": await serving_of(request).state.num_open()}


@router.get("/version")
async def version() -> dict[str, str]:
    """The version of the server."""
    return {"version": octavo.__version__}


@router.get("/metrics")
async def metrics(request: Request) -> Response:
    """All metrics in Prometheus's text format."""
    return Response(await serving_of(request).state.metrics_text(), media_type=CONTENT_TYPE_LATEST)


@router.post("/reset_prefix_cache")
async def reset_prefix_cache(request: Request) -> Response:
    """What was computed for earlier prompts is forgotten; vLLM's.

    200 at once; requests that come later find nothing but blocks that are in use now.
    """
    serving_of(request).engine.reset_prefix_cache()
    return Response()
