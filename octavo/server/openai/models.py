"""`GET /v1/models`: what is served here."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from octavo.server.openai.responses import ModelCard, ModelList
from octavo.server.requests.body import json_response
from octavo.server.serving import Serving, serving_of

router = APIRouter()


@router.get("/v1/models")
async def list_models(request: Request) -> Response:
    """The names that the model goes by."""
    serving = serving_of(request)
    return json_response(ModelList([_card(serving, name) for name in serving.model_names]))


@router.get("/v1/models/{name:path}")
async def get_model(request: Request, name: str) -> Response:
    """One of them."""
    serving = serving_of(request)
    return json_response(_card(serving, serving.check_model(name)))


def _card(serving: Serving, name: str) -> ModelCard:
    return ModelCard(
        id=name,
        created=serving.created,
        root=serving.model_path,
        max_model_len=serving.engine.max_model_len,
    )
