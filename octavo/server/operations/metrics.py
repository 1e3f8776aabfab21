"""`GET /metrics` for Prometheus; open without a key, as vLLM's is."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST

from octavo.server.serving import serving_of

router = APIRouter()


@router.get("/metrics")
async def metrics(request: Request) -> Response:
    """All metrics in Prometheus's text format."""
    return Response(await serving_of(request).state.metrics_text(), media_type=CONTENT_TYPE_LATEST)
