"""From a body to what the engine is asked: the one way for every API that generates."""

from __future__ import annotations

import msgspec
from fastapi import Request

from octavo.sampling_params import SamplingParams, check_integer
from octavo.server.errors import APIError, bad_input
from octavo.server.requests.chat_request import ChatCompletionRequest
from octavo.server.requests.completion_request import CompletionRequest
from octavo.server.requests.conversation import chat_prompt
from octavo.server.requests.generation import Generation
from octavo.server.requests.generation_request import FieldNames, GenerationRequest, Wanted
from octavo.server.requests.logprob_limit import check_logprobs
from octavo.server.requests.output_form import OutputForm, check_form
from octavo.server.requests.prompts import Prompt, check_choices, completion_prompts, fit
from octavo.server.serving import Serving, serving_of

_NO_LIMIT = 2**31 - 1


async def prepare(
    request: Request,
    body: ChatCompletionRequest | CompletionRequest,
    kind: str,
    *,
    names: FieldNames | None = None,
    form: OutputForm | None = None,
) -> Generation:
    """What `body` asks of the engine, everything about it checked; nothing runs yet.

    An API that is not OpenAI's has made `body` of its own. It says with `names` how it calls the fields that
    errors are about, and with `form` what form the answer has where `body` does not say it. `kind` is the
    beginning of the response's id. Raises APIError that names what is wrong.
    """
    serving = serving_of(request)
    body.check()
    body.fill_in(serving.config)
    model = serving.check_model(body.model)
    response_id = serving.response_id(kind, request, body.request_id)
    options = body.options(serving.user(request, body.user))
    with bad_input(body.__struct_fields__):
        options.check()
    form = _only_form(body, form)
    wanted = body.wanted()
    names = names or wanted.names
    first = _params(serving, body, wanted, names, form)
    await check_form(serving, form)
    prompts = await _prompts(serving, body, names)
    params = _fitted(serving, body, wanted, names, prompts, first)
    return Generation(
        response_id=response_id,
        model=model,
        prompts=prompts,
        params=params,
        options=options,
        timeout=serving.timeout(body.timeout),
        length_penalty=body.beam_length_penalty,
        prompt_only=wanted.prompt_only,
    )


def _only_form(body: GenerationRequest, form: OutputForm | None) -> OutputForm | None:
    form = form or body.output_form()
    if form is not None and body.use_beam_search:
        raise APIError(400, f"{form.field}: not with use_beam_search=true", form.field)
    return form


def _params(
    serving: Serving, body: GenerationRequest, wanted: Wanted, names: FieldNames, form: OutputForm | None
) -> SamplingParams:
    """The parameters before the prompt is read, so that what is wrong with them shows first."""
    if wanted.max_tokens is not None:
        with bad_input((names.max_tokens,)):
            check_integer(names.max_tokens, wanted.max_tokens, 1, _NO_LIMIT)
    limit = wanted.max_tokens or wanted.most_by_default or _NO_LIMIT
    return body.sampling_params(
        serving.engine.sampling_defaults, max_tokens=limit, logprobs=wanted.logprobs, form=form
    )


async def _prompts(
    serving: Serving, body: ChatCompletionRequest | CompletionRequest, names: FieldNames
) -> list[Prompt]:
    if isinstance(body, ChatCompletionRequest):
        return [await chat_prompt(serving, body, names.prompt)]
    return await completion_prompts(
        serving,
        body.prompt,
        body.add_special_tokens is not False,
        truncated=body.truncate_prompt_tokens is not None,
    )


def _fitted(
    serving: Serving,
    body: GenerationRequest,
    wanted: Wanted,
    names: FieldNames,
    prompts: list[Prompt],
    params: SamplingParams,
) -> list[SamplingParams]:
    """The parameters for each prompt, which is cut to size if the body wants that."""
    engine = serving.engine
    check_choices(len(prompts), params.num_sequences)
    limits = fit(
        prompts,
        max_model_len=engine.max_model_len,
        truncate=body.truncate_prompt_tokens,
        max_tokens=wanted.max_tokens,
        most_by_default=wanted.most_by_default,
        allowed=engine.sampling_defaults.get("max_tokens"),
        names=names,
    )
    with bad_input(body.__struct_fields__):
        fitted = [msgspec.structs.replace(params, max_tokens=limit) for limit in limits]
    check_logprobs(prompts, fitted, serving.config.max_logprobs, engine.vocab_size, names.logprobs)
    return fitted
