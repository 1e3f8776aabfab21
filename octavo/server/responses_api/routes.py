"""`/v1/responses`: OpenAI's Responses API, for text; responses are kept and can be gone on with."""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import Any

from fastapi import APIRouter, Request, Response

from octavo.server.errors import APIError
from octavo.server.openai.logprobs import chat_logprobs
from octavo.server.openai.responses import TokenLogprob
from octavo.server.openapi import described_by
from octavo.server.requests.answer import Answer, Text
from octavo.server.requests.body import json_response, read_body
from octavo.server.requests.chat_request import Message
from octavo.server.requests.disconnect import while_connected
from octavo.server.requests.prepare import prepare
from octavo.server.responses_api.events import EventWriter
from octavo.server.responses_api.items import items_of
from octavo.server.responses_api.request import FIELD_NAMES, ResponsesRequest
from octavo.server.responses_api.response import ResponseObject, new_response
from octavo.server.responses_api.stored import StoredResponse, decode_stored
from octavo.server.serving import Serving, serving_of
from octavo.server.sse import start_stream

router = APIRouter()


@router.post("/v1/responses", openapi_extra=described_by(ResponsesRequest))
async def create_response(request: Request) -> Response:
    """Answer an input, or go on with an earlier response."""
    serving = serving_of(request)
    body = await read_body(request, ResponsesRequest, serving.config.max_request_bytes)
    body.check()
    serving.check_model(body.model)
    before: tuple[Message, ...] = ()
    if body.previous_response_id is not None:
        before = (await _find(request, body.previous_response_id, "previous_response_id")).conversation
    chat = body.chat(before)
    generation = await prepare(request, chat, "resp", names=FIELD_NAMES, form=body.output_form())
    # Drawn, never the client's: who knows an id may read the response.
    generation.response_id = f"resp_{uuid.uuid4().hex}"
    keeps = body.store is not False and serving.config.max_stored_responses > 0
    response = new_response(body, generation, keeps)
    writer = EventWriter(response, serving.config.response_role, partial(_logprobs, serving, body))
    answer = Answer(serving, generation)
    if keeps:
        # Earlier instructions are not part of what is gone on with.
        asked = chat.messages[1:] if body.instructions else chat.messages
        keeper = _Keeper(serving, serving.user(request, None), items_of(body.input), tuple(asked))
        events = _kept(answer, writer, keeper)
    else:
        events = answer.written(writer)
    if body.stream:
        return await start_stream(request, events, writer.failed)
    await while_connected(request.receive, _last(events))
    return json_response(response)


@router.get("/v1/responses/{response_id}")
async def get_response(request: Request, response_id: str) -> Response:
    """A response that is stored."""
    if request.query_params.get("stream", "false").lower() == "true":
        raise APIError(400, "stream: a stored response can not be streamed, only a new one", "stream")
    return json_response((await _find(request, response_id, "response_id")).response)


@router.get("/v1/responses/{response_id}/input_items")
async def list_input_items(request: Request, response_id: str) -> dict[str, Any]:
    """What a stored response was asked, those before it apart."""
    items = (await _find(request, response_id, "response_id")).input_items
    return {
        "object": "list",
        "data": items,
        "first_id": items[0]["id"],
        "last_id": items[-1]["id"],
        "has_more": False,
    }


@router.delete("/v1/responses/{response_id}")
async def delete_response(request: Request, response_id: str) -> dict[str, Any]:
    """Forget a response; those that went on with it stay."""
    serving = serving_of(request)
    if not await serving.state.forget_response(serving.user(request, None), response_id):
        raise _not_found(response_id, "response_id")
    return {"id": response_id, "object": "response", "deleted": True}


@dataclass(slots=True)
class _Keeper:
    """Where a response goes when it is finished."""

    serving: Serving
    owner: str
    input_items: list[dict[str, Any]]
    asked: tuple[Message, ...]

    async def keep(self, response: ResponseObject, text: str) -> None:
        conversation = (*self.asked, Message("assistant", text))
        entry = StoredResponse(response, self.input_items, conversation)
        await self.serving.state.keep_response(self.owner, response.id, entry.encode(), entry.num_characters)


async def _kept(answer: Answer, writer: EventWriter, keeper: _Keeper) -> AsyncGenerator[bytes, None]:
    """The response's events; who has read the last one finds it kept."""
    async with aclosing(answer.written(writer)) as events:
        async for event in events:
            if writer.response.completed_at is not None:
                await keeper.keep(writer.response, writer.text.text)
            yield event


async def _last(events: AsyncGenerator[bytes, None]) -> None:
    async with aclosing(events):
        async for _ in events:
            pass


def _logprobs(serving: Serving, body: ResponsesRequest, text: Text) -> list[TokenLogprob]:
    if text.logprobs is None:
        return []
    return chat_logprobs(
        text.token_ids, text.logprobs, body.top_logprobs or 0, serving.engine.tokenizer
    ).content


async def _find(request: Request, response_id: str, param: str) -> StoredResponse:
    serving = serving_of(request)
    encoded = await serving.state.find_response(serving.user(request, None), response_id)
    if encoded is None:
        raise _not_found(response_id, param)
    return decode_stored(encoded)


def _not_found(response_id: str, param: str) -> APIError:
    return APIError(404, f"{param}: there is no response {response_id[:100]!r}", param)
