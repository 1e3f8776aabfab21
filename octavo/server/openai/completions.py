"""`POST /v1/completions`."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any

from fastapi import APIRouter, Request, Response

from octavo.outputs import CompletionOutput, Logprob, RequestOutput
from octavo.sampling_params import SamplingParams
from octavo.server.openai.logprobs import legacy_logprobs, prompt_logprobs
from octavo.server.openai.protocol import CompletionRequest
from octavo.server.openai.responses import Completion, CompletionChoice, LegacyLogprobs
from octavo.server.openapi import described_by
from octavo.server.requests.body import json_response, read_body
from octavo.server.requests.disconnect import while_connected
from octavo.server.requests.generation import Generation, UsageCount
from octavo.server.requests.logprob_limit import check_logprobs
from octavo.server.requests.output_form import OutputForm, check_form
from octavo.server.requests.prompts import Prompt, check_choices, completion_prompts, fit, limited
from octavo.server.serving import Serving, now, serving_of
from octavo.server.sse import DONE, ChunkEncoder, start_stream

DEFAULT_MAX_TOKENS = 16

router = APIRouter()


@router.post("/v1/completions", openapi_extra=described_by(CompletionRequest))
async def create_completion(request: Request) -> Response:
    """Complete a text, several texts, or prompts of token ids."""
    serving = serving_of(request)
    body = await read_body(request, CompletionRequest, serving.config.max_request_bytes)
    body.check()
    body.fill_in(serving.config)
    model = serving.check_model(body.model)
    response_id = serving.response_id("cmpl", request, body.request_id)
    generation = await _prepare(serving, body, response_id, serving.user(request, body.user))
    if body.stream:
        return await start_stream(request, _stream(serving, body, model, generation))
    return json_response(await while_connected(request.receive, _complete(serving, body, model, generation)))


async def _prepare(serving: Serving, body: CompletionRequest, response_id: str, user: str) -> Generation:
    # max_tokens=0 with echo scores the prompt; the engine makes at least one token, which is dropped.
    max_tokens = 1 if body.echo and body.max_tokens == 0 else body.max_tokens
    defaults = serving.engine.sampling_defaults
    max_tokens = limited(serving, max_tokens)
    default_max_tokens = min(DEFAULT_MAX_TOKENS, defaults.get("max_tokens", DEFAULT_MAX_TOKENS))
    form = body.output_form()
    params = _params(body, defaults, default_max_tokens if max_tokens is None else max_tokens, form)
    await check_form(serving, form)
    prompts = await completion_prompts(
        serving,
        body.prompt,
        body.add_special_tokens is not False,
        truncated=body.truncate_prompt_tokens is not None,
    )
    check_choices(len(prompts), params.num_sequences)
    limits = fit(
        prompts,
        max_model_len=serving.engine.max_model_len,
        truncate=body.truncate_prompt_tokens,
        max_tokens=max_tokens,
        default_max_tokens=default_max_tokens,
        param="prompt",
    )
    all_params = [_params(body, defaults, limit, form) for limit in limits]
    most = serving.config.max_logprobs
    check_logprobs(prompts, all_params, most, serving.engine.vocab_size, "logprobs")
    return Generation(
        response_id=response_id,
        prompts=prompts,
        params=all_params,
        options=body.options(user),
        timeout=serving.timeout(body.timeout),
        length_penalty=body.beam_length_penalty,
    )


def _params(
    body: CompletionRequest, defaults: Mapping[str, Any], max_tokens: int, form: OutputForm | None
) -> SamplingParams:
    params = body.sampling_params(defaults, max_tokens=max_tokens, logprobs=body.logprobs, form=form)
    if body.echo and body.logprobs is not None:
        params.prompt_logprobs = body.logprobs
    return params


async def _complete(
    serving: Serving, body: CompletionRequest, model: str, generation: Generation
) -> Completion:
    builder = _ChoiceBuilder(serving, body, generation)
    usage = UsageCount(generation.prompts)
    choices: list[CompletionChoice] = []
    async with aclosing(generation.run(serving)) as outputs:
        async for prompt_index, output in outputs:
            choices += [builder.choice(prompt_index, output, each) for each in output.outputs]
            usage.add(prompt_index, output)
    return Completion(
        id=generation.response_id,
        created=now(),
        model=model,
        choices=sorted(choices, key=lambda choice: choice.index),
        usage=usage.usage(),
    )


async def _stream(
    serving: Serving, body: CompletionRequest, model: str, generation: Generation
) -> AsyncGenerator[bytes, None]:
    builder = _ChoiceBuilder(serving, body, generation)
    usage = UsageCount(generation.prompts)
    encoder = ChunkEncoder(
        id=generation.response_id,
        object="text_completion",
        created=now(),
        model=model,
        include_usage=body.include_usage,
    )
    async with aclosing(generation.run(serving)) as outputs:
        async for prompt_index, output in outputs:
            choices = [builder.choice(prompt_index, output, each) for each in output.outputs]
            usage.add(prompt_index, output)
            so_far = usage.usage() if body.continuous_usage else None
            events = b""
            for choice in choices:
                if choice.text or choice.finish_reason or choice.logprobs or choice.token_ids:
                    events += encoder.chunk(choice, so_far)
            if events:
                yield events
    if body.include_usage:
        yield encoder.usage(usage.usage())
    yield DONE


class _ChoiceBuilder:
    """Makes the choices of one response; knows which have begun and how many characters they have."""

    def __init__(self, serving: Serving, body: CompletionRequest, generation: Generation) -> None:
        self._tokenizer = serving.engine.tokenizer
        self._body = body
        self._prompts = generation.prompts
        self._n = body.n or 1
        self._text_offsets: dict[int, int] = {}

    def choice(
        self, prompt_index: int, output: RequestOutput, completion: CompletionOutput
    ) -> CompletionChoice:
        """The choice for a completion, or for what is new of it."""
        body, prompt = self._body, self._prompts[prompt_index]
        if body.max_tokens == 0:  # Only the prompt was asked for.
            completion.text, completion.token_ids = "", []
            completion.logprobs = None if completion.logprobs is None else []
        choice = CompletionChoice(
            index=prompt_index * self._n + completion.index,
            text=completion.text,
            finish_reason=completion.finish_reason,
            stop_reason=completion.stop_reason,
        )
        first = choice.index not in self._text_offsets
        self._text_offsets.setdefault(choice.index, 0)
        if first and body.echo:
            choice.text = self._prompt_text(prompt) + choice.text
        if body.return_token_ids:
            choice.token_ids = completion.token_ids
            if first:
                choice.prompt_token_ids = prompt.token_ids
        if body.prompt_logprobs is not None and output.prompt_logprobs is not None:
            choice.prompt_logprobs = prompt_logprobs(output.prompt_logprobs)
        echoes = first and bool(body.echo) and output.prompt_logprobs is not None
        if completion.logprobs is not None and (completion.token_ids or echoes):
            choice.logprobs = self._logprobs(choice.index, prompt, output, completion, echoes)
        return choice

    def _logprobs(
        self,
        index: int,
        prompt: Prompt,
        output: RequestOutput,
        completion: CompletionOutput,
        echoes: bool,
    ) -> LegacyLogprobs:
        token_ids = completion.token_ids
        positions: list[dict[int, Logprob] | None] = [*(completion.logprobs or ())]
        if echoes:
            token_ids = prompt.token_ids + token_ids
            positions = [*(output.prompt_logprobs or ()), *positions]
        before = self._text_offsets[index]
        texts = [self._tokenizer.token_text(token_id) for token_id in token_ids]
        self._text_offsets[index] += sum(map(len, texts))
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
