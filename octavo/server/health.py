"""Whether the server can answer, and which version it is; open to probes without a key."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

import octavo
from octavo.server.errors import APIError
from octavo.server.serving import serving_of

router = APIRouter()


@router.get("/health")
@router.api_route("/ping", methods=["GET", "POST"], include_in_schema=False)
async def health(request: Request) -> Response:
    """200 while the engine takes requests, 503 when it does not."""
    if not serving_of(request).engine.healthy:
        raise APIError(503, "the engine is down")
    return Response()


@router.get("/version")
async def version() -> dict[str, str]:
    """The version of the server."""
    return {"version": octavo.__version__}
