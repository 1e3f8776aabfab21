"""Whether the server can answer, how busy it is, and which version it is; open to probes without a key."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

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
