"""`POST /v1/chat/completions`."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from fastapi import APIRouter, Request, Response

from octavo.outputs import CompletionOutput
from octavo.server.openai.logprobs import chat_logprobs, prompt_logprobs
from octavo.server.openai.protocol import ChatCompletionRequest
from octavo.server.openai.responses import (
    AssistantMessage,
    ChatChoice,
    ChatChunkChoice,
    ChatCompletion,
    ChatLogprobs,
    Delta,
)
from octavo.server.openapi import described_by
from octavo.server.requests.body import json_response, read_body
from octavo.server.requests.chat_generation import chat_generation
from octavo.server.requests.disconnect import while_connected
from octavo.server.requests.generation import Generation, UsageCount
from octavo.server.serving import Serving, now, serving_of
from octavo.server.sse import DONE, ChunkEncoder, start_stream

router = APIRouter()


@router.post("/v1/chat/completions", openapi_extra=described_by(ChatCompletionRequest))
async def create_chat_completion(request: Request) -> Response:
    """Answer a conversation."""
    serving = serving_of(request)
    body = await read_body(request, ChatCompletionRequest, serving.config.max_request_bytes)
    body.check()
    body.fill_in(serving.config)
    model = serving.check_model(body.model)
    response_id = serving.response_id("chatcmpl", request, body.request_id)
    generation = await chat_generation(serving, body, response_id, serving.user(request, body.user))
    if body.stream:
        return await start_stream(request, _stream(serving, body, model, generation))
    return json_response(await while_connected(request.receive, _complete(serving, body, model, generation)))


async def _complete(
    serving: Serving, body: ChatCompletionRequest, model: str, generation: Generation
) -> ChatCompletion:
    usage = UsageCount(generation.prompts)
    response = ChatCompletion(
        id=generation.response_id, created=now(), model=model, choices=[], usage=usage.usage()
    )
    if body.return_token_ids:
        response.prompt_token_ids = generation.prompts[0].token_ids
    async with aclosing(generation.run(serving)) as outputs:
        async for prompt_index, output in outputs:
            usage.add(prompt_index, output)
            response.choices += [_choice(serving, body, each) for each in output.outputs]
            if body.prompt_logprobs is not None and output.prompt_logprobs is not None:
                response.prompt_logprobs = prompt_logprobs(output.prompt_logprobs)
    response.choices.sort(key=lambda choice: choice.index)
    response.usage = usage.usage()
    return response


def _choice(serving: Serving, body: ChatCompletionRequest, completion: CompletionOutput) -> ChatChoice:
    choice = ChatChoice(
        index=completion.index,
        message=AssistantMessage(_role(serving, body), _echoed(serving, body) + completion.text),
        logprobs=_logprobs(serving, body, completion),
        finish_reason=completion.finish_reason,
        stop_reason=completion.stop_reason,
    )
    if body.return_token_ids:
        choice.token_ids = completion.token_ids
    return choice


async def _stream(
    serving: Serving, body: ChatCompletionRequest, model: str, generation: Generation
) -> AsyncGenerator[bytes, None]:
    usage = UsageCount(generation.prompts)
    encoder = ChunkEncoder(
        id=generation.response_id,
        object="chat.completion.chunk",
        created=now(),
        model=model,
        include_usage=body.include_usage,
    )
    begun: set[int] = set()
    async with aclosing(generation.run(serving)) as outputs:
        async for prompt_index, output in outputs:
            usage.add(prompt_index, output)
            so_far = usage.usage() if body.continuous_usage else None
            events = b""
            for completion in output.outputs:
                if completion.index not in begun:
                    opening = Delta(role=_role(serving, body), content=_echoed(serving, body))
                    more: dict[str, Any] | None = None
                    if body.return_token_ids and not begun:
                        more = {"prompt_token_ids": generation.prompts[0].token_ids}
                    events += encoder.chunk(
                        ChatChunkChoice(index=completion.index, delta=opening), so_far, more
                    )
                    begun.add(completion.index)
                choice = _chunk_choice(serving, body, completion)
                if completion.text or choice.finish_reason or choice.logprobs or choice.token_ids:
                    events += encoder.chunk(choice, so_far)
            if events:
                yield events
    if body.include_usage:
        yield encoder.usage(usage.usage())
    yield DONE


def _chunk_choice(
    serving: Serving, body: ChatCompletionRequest, completion: CompletionOutput
) -> ChatChunkChoice:
    delta = Delta(content=completion.text) if completion.text else Delta()
    choice = ChatChunkChoice(index=completion.index, delta=delta)
    if body.logprobs:
        choice.logprobs = _logprobs(serving, body, completion)
    if body.return_token_ids:
        choice.token_ids = completion.token_ids
    if completion.finish_reason is not None:
        choice.finish_reason = completion.finish_reason
        choice.stop_reason = completion.stop_reason
    return choice


def _logprobs(
    serving: Serving, body: ChatCompletionRequest, completion: CompletionOutput
) -> ChatLogprobs | None:
    if completion.logprobs is None or not completion.token_ids:
        return None
    return chat_logprobs(
        completion.token_ids,
        completion.logprobs,
        body.top_logprobs or 0,
        serving.engine.tokenizer,
        as_ids=bool(body.return_tokens_as_token_ids),
    )


def _role(serving: Serving, body: ChatCompletionRequest) -> str:
    if body.continue_final_message or body.add_generation_prompt is False:
        return body.messages[-1].role
    return serving.config.response_role


def _echoed(serving: Serving, body: ChatCompletionRequest) -> str:
    """With `echo` the text of the last message, where the answer has the same role and goes on with it."""
    last = body.messages[-1]
    if not body.echo or last.role != _role(serving, body):
        return ""
    if isinstance(last.content, list):
        return "\n".join(str(part.get("text", "")) for part in last.content)
    return last.content or ""
