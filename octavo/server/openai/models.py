"""`GET /v1/models`: what is served here; and the routes that it does not serve, refused clearly.

Those need hidden states or scores, which a generating model does not give.
"""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from octavo.server.errors import APIError
from octavo.server.openai.responses import ModelCard, ModelList
from octavo.server.requests.body import json_response
from octavo.server.serving import Serving, serving_of

router = APIRouter()

_API = {
    "/v1/embeddings": "Embeddings",
    "/pooling": "Pooling",
    "/classify": "Classification",
    "/score": "Score",
    "/v1/score": "Score",
    "/rerank": "Rerank",
    "/v1/rerank": "Rerank",
    "/v2/rerank": "Rerank",
}


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


async def _refuse(request: Request) -> Response:
    path = request.url.path.removeprefix(request.scope.get("root_path", ""))
    raise APIError(400, f"the model does not support the {_API[path]} API: it generates text")


for _path in _API:
    router.add_api_route(_path, _refuse, methods=["POST"], include_in_schema=False)
