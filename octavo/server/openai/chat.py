"""`POST /v1/chat/completions`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, Request, Response

from octavo.server.openai.chunks import ChunkEncoder
from octavo.server.openai.logprobs import chat_logprobs, prompt_logprobs
from octavo.server.openai.responses import (
    AssistantMessage,
    ChatChoice,
    ChatChunkChoice,
    ChatCompletion,
    ChatLogprobs,
    Delta,
    Usage,
)
from octavo.server.openapi import described_by
from octavo.server.requests.answer import Answer, Choice, End, Event, Text
from octavo.server.requests.body import json_response, read_body
from octavo.server.requests.chat_request import ChatCompletionRequest
from octavo.server.requests.disconnect import while_connected
from octavo.server.requests.generation import Generation
from octavo.server.requests.prepare import prepare
from octavo.server.serving import Serving, now, serving_of
from octavo.server.sse import DONE, failed, start_stream

router = APIRouter()


@router.post("/v1/chat/completions", openapi_extra=described_by(ChatCompletionRequest))
async def create_chat_completion(request: Request) -> Response:
    """Answer a conversation."""
    serving = serving_of(request)
    body = await read_body(request, ChatCompletionRequest, serving.config.max_request_bytes)
    generation = await prepare(request, body, "chatcmpl")
    answer = Answer(serving, generation)
    if body.stream:
        return await start_stream(request, answer.written(_Chunks(serving, body, generation, answer)))
    whole = _complete(serving, body, generation, answer)
    return json_response(await while_connected(request.receive, whole))


async def _complete(
    serving: Serving, body: ChatCompletionRequest, generation: Generation, answer: Answer
) -> ChatCompletion:
    created = now()
    choices = await answer.choices()
    response = ChatCompletion(
        id=generation.response_id,
        created=created,
        model=generation.model,
        choices=[_choice(serving, body, choice) for choice in choices],
        usage=Usage.of(answer.usage),
    )
    if body.return_token_ids:
        response.prompt_token_ids = generation.prompts[0].token_ids
    scored = choices[0].begin.prompt_logprobs
    if body.prompt_logprobs is not None and scored is not None:
        response.prompt_logprobs = prompt_logprobs(scored)
    return response


def _choice(serving: Serving, body: ChatCompletionRequest, whole: Choice) -> ChatChoice:
    choice = ChatChoice(
        index=whole.end.choice,
        message=AssistantMessage(_role(serving, body), _echoed(serving, body) + whole.text.text),
        logprobs=_logprobs(serving, body, whole.text),
        finish_reason=whole.end.reason,
        stop_reason=whole.end.stop_reason,
    )
    if body.return_token_ids:
        choice.token_ids = whole.text.token_ids
    return choice


class _Chunks:
    """Writes the events of an answer as chunks of a chat completion."""

    def __init__(
        self, serving: Serving, body: ChatCompletionRequest, generation: Generation, answer: Answer
    ) -> None:
        self._serving = serving
        self._body = body
        self._answer = answer
        self._encoder = ChunkEncoder(
            id=generation.response_id,
            object="chat.completion.chunk",
            created=now(),
            model=generation.model,
            include_usage=body.include_usage,
        )
        self._beside: dict[str, Any] | None = None
        """What goes beside the first choice."""
        if body.return_token_ids:
            self._beside = {"prompt_token_ids": generation.prompts[0].token_ids}
        self.failed = failed

    def write(self, events: Sequence[Event]) -> bytes:
        chunks: list[ChatChunkChoice] = []
        for event in events:
            if isinstance(event, Text):
                chunks.append(self._text(event))
            elif isinstance(event, End):
                chunks[-1].finish_reason, chunks[-1].stop_reason = event.reason, event.stop_reason
            else:
                chunks.append(ChatChunkChoice(index=event.choice, delta=self._opening()))
        usage = Usage.of(self._answer.usage) if self._body.continuous_usage else None
        written = b""
        for chunk in chunks:
            delta = chunk.delta
            if delta.role or delta.content or chunk.finish_reason or chunk.logprobs or chunk.token_ids:
                written += self._encoder.chunk(chunk, usage, self._beside)
                self._beside = None
        return written

    def close(self) -> bytes:
        return (self._encoder.usage(Usage.of(self._answer.usage)) if self._body.include_usage else b"") + DONE

    def _opening(self) -> Delta:
        return Delta(role=_role(self._serving, self._body), content=_echoed(self._serving, self._body))

    def _text(self, event: Text) -> ChatChunkChoice:
        delta = Delta(content=event.text) if event.text else Delta()
        chunk = ChatChunkChoice(index=event.choice, delta=delta)
        if event.logprobs is not None:
            chunk.logprobs = _logprobs(self._serving, self._body, event)
        if self._body.return_token_ids:
            chunk.token_ids = event.token_ids
        return chunk


def _logprobs(serving: Serving, body: ChatCompletionRequest, text: Text) -> ChatLogprobs | None:
    if text.logprobs is None or not text.token_ids or not body.logprobs:
        return None
    return chat_logprobs(
        text.token_ids,
        text.logprobs,
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
