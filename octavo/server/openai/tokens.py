"""`POST /tokenize` and `/detokenize`: a text or a conversation as tokens, and back; as in vLLM."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
from fastapi import APIRouter, Request, Response

from octavo.server.errors import APIError, bad_input
from octavo.server.openapi import described_by
from octavo.server.requests.body import json_response, read_body
from octavo.server.requests.chat_request import ChatCompletionRequest, Message
from octavo.server.requests.conversation import chat_prompt
from octavo.server.requests.prompts import check_vocabulary, encode
from octavo.server.serving import Serving, serving_of

router = APIRouter()

MAX_DETOKENIZED = 1 << 20


class TokenizeRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A text (`prompt`) or a conversation (`messages`), which is rendered as for an answer.

    `add_special_tokens` is true by default for a text, false for a conversation, whose template has them.
    """

    model: str | None = None
    prompt: str | None = None
    messages: list[Message] | None = None
    add_special_tokens: bool | None = None
    return_token_strs: bool | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None


class Tokens(msgspec.Struct):
    """The tokens; `token_strs` are their texts where they were asked for."""

    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None


class DetokenizeRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Token ids to write out."""

    model: str | None = None
    tokens: list[int]


class Text(msgspec.Struct):
    """The text of the tokens, special ones included."""

    prompt: str


@router.post("/tokenize", openapi_extra=described_by(TokenizeRequest))
async def tokenize(request: Request) -> Response:
    """The tokens of a text or of a conversation."""
    serving = serving_of(request)
    body = await read_body(request, TokenizeRequest, serving.config.max_request_bytes)
    serving.check_model(body.model)
    token_ids = await _tokens(serving, body)
    strings = None
    if body.return_token_strs:
        strings = [serving.engine.tokenizer.token_text(token_id) for token_id in token_ids]
    return json_response(Tokens(len(token_ids), serving.engine.max_model_len, token_ids, strings))


@router.post("/detokenize", openapi_extra=described_by(DetokenizeRequest))
async def detokenize(request: Request) -> Response:
    """The text of tokens."""
    serving = serving_of(request)
    body = await read_body(request, DetokenizeRequest, serving.config.max_request_bytes)
    serving.check_model(body.model)
    if len(body.tokens) > MAX_DETOKENIZED:
        raise APIError(400, f"tokens takes at most {MAX_DETOKENIZED}, got {len(body.tokens)}", "tokens")
    check_vocabulary("tokens", body.tokens, serving.engine.vocab_size)
    decode = serving.engine.tokenizer.decode
    with bad_input(("tokens",)):
        return json_response(Text(await asyncio.to_thread(decode, body.tokens, skip_special_tokens=False)))


async def _tokens(serving: Serving, body: TokenizeRequest) -> list[int]:
    if (body.prompt is None) == (body.messages is None):
        raise APIError(400, "prompt: give either prompt or messages", "prompt")
    if body.prompt is not None:
        for name in ("chat_template", "chat_template_kwargs", "add_generation_prompt"):
            if getattr(body, name) is not None:
                raise APIError(400, f"{name}: only with messages", name)
        [token_ids] = await encode(serving, [body.prompt], body.add_special_tokens is not False, "prompt")
        return token_ids
    assert body.messages is not None
    chat = ChatCompletionRequest(
        messages=body.messages,
        add_special_tokens=body.add_special_tokens,
        add_generation_prompt=body.add_generation_prompt,
        continue_final_message=body.continue_final_message,
        chat_template=body.chat_template,
        chat_template_kwargs=body.chat_template_kwargs,
    )
    chat.check()
    return (await chat_prompt(serving, chat)).token_ids
