"""Routes that need hidden states or scores, which a generating model does not give: refused clearly."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from octavo.server.errors import APIError

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


async def _refuse(request: Request) -> Response:
    path = request.url.path.removeprefix(request.scope.get("root_path", ""))
    raise APIError(400, f"the model does not support the {_API[path]} API: it generates text")


for _path in _API:
    router.add_api_route(_path, _refuse, methods=["POST"], include_in_schema=False)
