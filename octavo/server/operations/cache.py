"""`POST /reset_prefix_cache`: what was computed for earlier prompts is forgotten. vLLM's."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from octavo.server.serving import serving_of

router = APIRouter()


@router.post("/reset_prefix_cache")
async def reset_prefix_cache(request: Request) -> Response:
    """200 at once; requests that come later find nothing but blocks that are in use now."""
    serving_of(request).engine.reset_prefix_cache()
    return Response()
