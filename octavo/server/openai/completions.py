"""`POST /v1/completions`."""

from __future__ import annotations

from collections.abc import Sequence

from fastapi import APIRouter, Request, Response

from octavo.outputs import Logprob
from octavo.server.openai.chunks import ChunkEncoder
from octavo.server.openai.logprobs import legacy_logprobs, prompt_logprobs
from octavo.server.openai.responses import Completion, CompletionChoice, LegacyLogprobs, Usage
from octavo.server.openapi import described_by
from octavo.server.requests.answer import Answer, Begin, End, Event, Text
from octavo.server.requests.body import json_response, read_body
from octavo.server.requests.completion_request import CompletionRequest
from octavo.server.requests.disconnect import while_connected
from octavo.server.requests.generation import Generation
from octavo.server.requests.prepare import prepare
from octavo.server.requests.prompts import Prompt
from octavo.server.serving import Serving, now, serving_of
from octavo.server.sse import DONE, failed, start_stream

router = APIRouter()


@router.post("/v1/completions", openapi_extra=described_by(CompletionRequest))
async def create_completion(request: Request) -> Response:
    """Complete a text, several texts, or prompts of token ids."""
    serving = serving_of(request)
    body = await read_body(request, CompletionRequest, serving.config.max_request_bytes)
    generation = await prepare(request, body, "cmpl")
    answer = Answer(serving, generation)
    if body.stream:
        return await start_stream(request, answer.written(_Chunks(serving, body, generation, answer)))
    whole = _complete(serving, body, generation, answer)
    return json_response(await while_connected(request.receive, whole))


async def _complete(
    serving: Serving, body: CompletionRequest, generation: Generation, answer: Answer
) -> Completion:
    builder = _ChoiceBuilder(serving, body)
    choices = []
    for whole in await answer.choices():
        builder.begin(whole.begin)
        choices.append(builder.choice(whole.text))
        choices[-1].finish_reason, choices[-1].stop_reason = whole.end.reason, whole.end.stop_reason
    return Completion(
        id=generation.response_id,
        created=now(),
        model=generation.model,
        choices=choices,
        usage=Usage.of(answer.usage),
    )


class _Chunks:
    """Writes the events of an answer as chunks of a completion."""

    def __init__(
        self, serving: Serving, body: CompletionRequest, generation: Generation, answer: Answer
    ) -> None:
        self._body = body
        self._answer = answer
        self._builder = _ChoiceBuilder(serving, body)
        self._encoder = ChunkEncoder(
            id=generation.response_id,
            object="text_completion",
            created=now(),
            model=generation.model,
            include_usage=body.include_usage,
        )
        self.failed = failed

    def write(self, events: Sequence[Event]) -> bytes:
        chunks: list[CompletionChoice] = []
        for event in events:
            if isinstance(event, Text):
                chunks.append(self._builder.choice(event))
            elif isinstance(event, End):
                chunks[-1].finish_reason, chunks[-1].stop_reason = event.reason, event.stop_reason
            else:
                self._builder.begin(event)
        usage = Usage.of(self._answer.usage) if self._body.continuous_usage else None
        written = b""
        for chunk in chunks:
            if chunk.text or chunk.finish_reason or chunk.logprobs or chunk.token_ids:
                written += self._encoder.chunk(chunk, usage)
        return written

    def close(self) -> bytes:
        return (self._encoder.usage(Usage.of(self._answer.usage)) if self._body.include_usage else b"") + DONE


class _ChoiceBuilder:
    """Makes the choices of one response; knows which have begun and how many characters they have."""

    def __init__(self, serving: Serving, body: CompletionRequest) -> None:
        self._tokenizer = serving.engine.tokenizer
        self._body = body
        self._begun: dict[int, Begin] = {}
        """Choices of which nothing was made yet."""
        self._text_offsets: dict[int, int] = {}

    def begin(self, event: Begin) -> None:
        """A choice begins."""
        self._begun[event.choice] = event
        self._text_offsets[event.choice] = 0

    def choice(self, event: Text) -> CompletionChoice:
        """The choice with a text, or with what is new of it."""
        body, begin = self._body, self._begun.pop(event.choice, None)
        choice = CompletionChoice(index=event.choice, text=event.text)
        if begin is not None and body.echo:
            choice.text = self._prompt_text(begin.prompt) + choice.text
        if body.return_token_ids:
            choice.token_ids = event.token_ids
            if begin is not None:
                choice.prompt_token_ids = begin.prompt.token_ids
        scored = None if begin is None else begin.prompt_logprobs
        if body.prompt_logprobs is not None and scored is not None:
            choice.prompt_logprobs = prompt_logprobs(scored)
        echoed = begin if body.echo and scored is not None else None
        if event.logprobs is not None and (event.token_ids or echoed is not None):
            choice.logprobs = self._logprobs(event, echoed)
        return choice

    def _logprobs(self, event: Text, echoed: Begin | None) -> LegacyLogprobs:
        token_ids = event.token_ids
        positions: list[dict[int, Logprob] | None] = [*(event.logprobs or ())]
        if echoed is not None:
            token_ids = echoed.prompt.token_ids + token_ids
            positions = [*(echoed.prompt_logprobs or ()), *positions]
        before = self._text_offsets[event.choice]
        texts = [self._tokenizer.token_text(token_id) for token_id in token_ids]
        self._text_offsets[event.choice] += sum(map(len, texts))
        return legacy_logprobs(
            token_ids,
            positions,
            self._body.logprobs or 0,
            self._tokenizer,
            text_offset=before,
            as_ids=bool(self._body.return_tokens_as_token_ids),
        )

    def _prompt_text(self, prompt: Prompt) -> str:
        if prompt.text is not None:
            return prompt.text
        return self._tokenizer.decode(prompt.token_ids, skip_special_tokens=False)
