"""`POST /v1/chat/completions`."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from fastapi import APIRouter, Request, Response

from octavo.outputs import CompletionOutput
from octavo.sampling_params import MAX_LOGPROBS, check_integer
from octavo.server.body import json_response, read_body
from octavo.server.conversation import render
from octavo.server.disconnect import while_connected
from octavo.server.errors import bad_input
from octavo.server.generation import Generation, UsageCount
from octavo.server.logprobs import chat_logprobs, prompt_logprobs
from octavo.server.openapi import described_by
from octavo.server.prompts import Prompt, encode, fit
from octavo.server.protocol import ChatCompletionRequest
from octavo.server.responses import (
    AssistantMessage,
    ChatChoice,
    ChatChunkChoice,
    ChatCompletion,
    ChatLogprobs,
    Delta,
)
from octavo.server.serving import Serving, now, serving_of
from octavo.server.sse import DONE, ChunkEncoder, start_stream

router = APIRouter()


@router.post("/v1/chat/completions", openapi_extra=described_by(ChatCompletionRequest))
async def create_chat_completion(request: Request) -> Response:
    """Answer a conversation."""
    serving = serving_of(request)
    body = await read_body(request, ChatCompletionRequest, serving.config.max_request_bytes)
    body.check()
    model = serving.check_model(body.model)
    generation = await _prepare(serving, body, serving.response_id("chatcmpl", request, body.request_id))
    if body.stream:
        return await start_stream(request, _stream(serving, body, model, generation))
    return json_response(await while_connected(request.receive, _complete(serving, body, model, generation)))


async def _prepare(serving: Serving, body: ChatCompletionRequest, response_id: str) -> Generation:
    max_tokens, max_tokens_param = body.max_tokens, "max_tokens"
    if body.max_completion_tokens is not None:
        max_tokens, max_tokens_param = body.max_completion_tokens, "max_completion_tokens"
    logprobs = (body.top_logprobs or 0) if body.logprobs else None
    with bad_input(body.__struct_fields__):
        if max_tokens is not None:
            check_integer(max_tokens_param, max_tokens, 1, 2**31 - 1)
        if logprobs is not None:
            check_integer("top_logprobs", logprobs, 0, MAX_LOGPROBS)
    body.sampling_params(max_tokens=max_tokens or 2**31 - 1, logprobs=logprobs)

    text = render(serving, body)
    [token_ids] = await encode(serving, [text], bool(body.add_special_tokens), "messages")
    prompt = Prompt(token_ids, text)
    [limit] = fit(
        [prompt],
        max_model_len=serving.engine.max_model_len,
        truncate=body.truncate_prompt_tokens,
        max_tokens=max_tokens,
        default_max_tokens=None,
        param="messages",
        max_tokens_param=max_tokens_param,
    )
    return Generation(
        response_id=response_id,
        prompts=[prompt],
        params=[body.sampling_params(max_tokens=limit, logprobs=logprobs)],
        priority=body.priority or 0,
        cache_salt=body.cache_salt or "",
    )


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
        message=AssistantMessage(_role(serving, body), completion.text),
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
                    opening = Delta(role=_role(serving, body), content="")
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
    count = body.top_logprobs or 0
    return chat_logprobs(completion.token_ids, completion.logprobs, count, serving.engine.tokenizer)


def _role(serving: Serving, body: ChatCompletionRequest) -> str:
    if body.continue_final_message or body.add_generation_prompt is False:
        return body.messages[-1].role
    return serving.config.response_role
