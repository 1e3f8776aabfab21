"""`/v1/responses`: OpenAI's Responses API, for text; responses are kept and can be gone on with."""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request, Response

from octavo.outputs import CompletionOutput
from octavo.server.errors import APIError
from octavo.server.openai.logprobs import chat_logprobs
from octavo.server.openai.protocol import Message
from octavo.server.openai.responses import TokenLogprob
from octavo.server.openapi import described_by
from octavo.server.requests.body import json_response, read_body
from octavo.server.requests.chat_generation import chat_generation
from octavo.server.requests.disconnect import while_connected
from octavo.server.requests.generation import Generation, UsageCount
from octavo.server.responses_api.events import EventWriter
from octavo.server.responses_api.items import items_of
from octavo.server.responses_api.request import ResponsesRequest
from octavo.server.responses_api.response import OutputMessage, OutputText, ResponseObject, new_response
from octavo.server.responses_api.stored import StoredResponse
from octavo.server.serving import Serving, serving_of
from octavo.server.sse import start_stream
from octavo.server.state import ServerState

router = APIRouter()


@router.post("/v1/responses", openapi_extra=described_by(ResponsesRequest))
async def create_response(request: Request) -> Response:
    """Answer an input, or go on with an earlier response."""
    serving = serving_of(request)
    body = await read_body(request, ResponsesRequest, serving.config.max_request_bytes)
    body.check()
    model = serving.check_model(body.model)
    serving.response_id("resp", request, None)
    # Drawn, never the client's: who knows an id may read the response.
    response_id = f"resp_{uuid.uuid4().hex}"
    owner = serving.user(request, None)
    before: tuple[Message, ...] = ()
    if body.previous_response_id is not None:
        before = (await _find(request, body.previous_response_id, "previous_response_id")).conversation
    chat = body.chat(before)
    generation = await chat_generation(
        serving,
        chat,
        response_id,
        serving.user(request, body.user),
        prompt_param="input",
        max_tokens_param="max_output_tokens",
        form=body.output_form(),
    )
    keeps = body.store is not False and serving.config.max_stored_responses > 0
    response = new_response(body, response_id, model, generation.params[0], keeps)
    answer = _Answer(serving, body, generation, response)
    if keeps:
        # Earlier instructions are not part of what is gone on with.
        asked = chat.messages[1:] if body.instructions else chat.messages
        answer.keep = _Keeper(serving.state, owner, items_of(body.input), tuple(asked))
    if body.stream:
        return await start_stream(request, answer.stream(), answer.events.failed)
    return json_response(await while_connected(request.receive, answer.complete()))


@router.get("/v1/responses/{response_id}")
async def get_response(request: Request, response_id: str) -> Response:
    """A response that is stored."""
    if request.query_params.get("stream", "false").lower() == "true":
        raise APIError(400, "stream: only a response that is made can be streamed", "stream")
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

    state: ServerState
    owner: str
    input_items: list[dict[str, Any]]
    asked: tuple[Message, ...]

    async def keep(self, response: ResponseObject, text: str) -> None:
        conversation = (*self.asked, Message("assistant", text))
        entry = StoredResponse(response, self.input_items, conversation)
        await self.state.keep_response(self.owner, entry)


class _Answer:
    """Generates one response, whole or as events."""

    def __init__(
        self, serving: Serving, body: ResponsesRequest, generation: Generation, response: ResponseObject
    ) -> None:
        self.keep: _Keeper | None = None
        self._serving = serving
        self._body = body
        self._generation = generation
        self._response = response
        self._text = OutputText("")
        self._message = OutputMessage(id=f"msg_{uuid.uuid4().hex}", role=serving.config.response_role)
        self.events = EventWriter(response, self._message)

    async def complete(self) -> ResponseObject:
        """The response once it is finished."""
        async with aclosing(self.stream()) as events:
            async for _ in events:
                pass
        return self._response

    async def stream(self) -> AsyncGenerator[bytes, None]:
        """Its events as they come; the first ones once there is something of the answer."""
        usage = UsageCount(self._generation.prompts)
        begun = False
        async with aclosing(self._generation.run(self._serving)) as outputs:
            async for prompt_index, output in outputs:
                usage.add(prompt_index, output)
                [completion] = output.outputs
                events = b"" if begun else self.events.begin()
                begun = True
                logprobs = self._logprobs(completion)
                self._text.text += completion.text
                self._text.logprobs += logprobs
                if completion.text or logprobs:
                    events += self.events.delta(completion.text, logprobs)
                if completion.finish_reason is not None:
                    self._message.content = [self._text]
                    self._response.finish(self._message, completion, usage)
                    if self.keep is not None:
                        await self.keep.keep(self._response, self._text.text)
                    events += self.events.end()
                if events:
                    yield events

    def _logprobs(self, completion: CompletionOutput) -> list[TokenLogprob]:
        if completion.logprobs is None or not completion.token_ids:
            return []
        return chat_logprobs(
            completion.token_ids,
            completion.logprobs,
            self._body.top_logprobs or 0,
            self._serving.engine.tokenizer,
        ).content


async def _find(request: Request, response_id: str, param: str) -> StoredResponse:
    serving = serving_of(request)
    entry = await serving.state.find_response(serving.user(request, None), response_id)
    if entry is None:
        raise _not_found(response_id, param)
    return entry


def _not_found(response_id: str, param: str) -> APIError:
    return APIError(404, f"{param}: there is no response {response_id[:100]!r}", param)
