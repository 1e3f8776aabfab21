"""`POST /invocations`: what SageMaker calls; a chat or a completion, told apart by its fields. vLLM's."""

from __future__ import annotations

import msgspec
from fastapi import APIRouter, Request, Response
from starlette.types import Message

from octavo.server.errors import APIError
from octavo.server.openai import chat, completions
from octavo.server.requests.body import read_bounded
from octavo.server.responses_api import routes
from octavo.server.serving import serving_of

router = APIRouter()
_fields = msgspec.json.Decoder(dict[str, msgspec.Raw])


@router.post("/invocations", openapi_extra={"requestBody": {"content": {"application/json": {}}}})
async def invoke(request: Request) -> Response:
    """Answer `messages` as a chat, `prompt` as a completion, `input` as a response."""
    content = await read_bounded(request, serving_of(request).config.max_request_bytes)
    again = _with_body(request, content)
    try:
        names = set(_fields.decode(content))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise APIError(400, f"the body is not a JSON object: {error}") from error
    if "messages" in names:
        return await chat.create_chat_completion(again)
    if "prompt" in names:
        return await completions.create_completion(again)
    if "input" in names:
        return await routes.create_response(again)
    raise APIError(400, "the body needs messages (a chat), prompt (a completion) or input (a response)")


def _with_body(request: Request, content: bytes) -> Request:
    """The request with its body, which was read, to be read again; what comes after it is the same."""
    pending: list[Message] = [{"type": "http.request", "body": content, "more_body": False}]

    async def receive() -> Message:
        return pending.pop() if pending else await request.receive()

    return Request(request.scope, receive)
