"""From a conversation to what the engine is asked: what every API that answers conversations shares."""

from __future__ import annotations

from octavo.sampling_params import MAX_LOGPROBS, check_integer
from octavo.server.errors import bad_input
from octavo.server.openai.protocol import ChatCompletionRequest
from octavo.server.requests.conversation import render
from octavo.server.requests.generation import Generation
from octavo.server.requests.logprob_limit import check_logprobs
from octavo.server.requests.output_form import OutputForm, check_form
from octavo.server.requests.prompts import Prompt, encode, fit, limited
from octavo.server.serving import Serving


async def chat_prompt(serving: Serving, body: ChatCompletionRequest) -> Prompt:
    """The conversation as the model is asked to go on with it; raises APIError that names what is wrong."""
    text = await render(serving, body)
    [token_ids] = await encode(serving, [text], bool(body.add_special_tokens), "messages")
    return Prompt(token_ids, text)


async def chat_generation(
    serving: Serving,
    body: ChatCompletionRequest,
    response_id: str,
    user: str,
    *,
    prompt_param: str = "messages",
    max_tokens_param: str = "max_tokens",
    form: OutputForm | None = None,
) -> Generation:
    """What answers a conversation; raises APIError for one that can not be, before anything runs.

    `user` is whose share it takes where shares are fair. Errors name the conversation and its limit as the
    arguments after it say. `form` is that of the answer where `body` itself does not say it.
    """
    max_tokens = body.max_tokens
    if body.max_completion_tokens is not None:
        max_tokens, max_tokens_param = body.max_completion_tokens, "max_completion_tokens"
    logprobs = (body.top_logprobs or 0) if body.logprobs else None
    defaults = serving.engine.sampling_defaults
    with bad_input(body.__struct_fields__):
        if max_tokens is not None:
            check_integer(max_tokens_param, max_tokens, 1, 2**31 - 1)
        if logprobs is not None:
            check_integer("top_logprobs", logprobs, 0, MAX_LOGPROBS)
    form = form or body.output_form()
    body.sampling_params(defaults, max_tokens=max_tokens or 2**31 - 1, logprobs=logprobs, form=form)
    await check_form(serving, form)

    prompt = await chat_prompt(serving, body)
    [limit] = fit(
        [prompt],
        max_model_len=serving.engine.max_model_len,
        truncate=body.truncate_prompt_tokens,
        max_tokens=limited(serving, max_tokens),
        default_max_tokens=defaults.get("max_tokens"),
        param=prompt_param,
        max_tokens_param=max_tokens_param,
    )
    params = body.sampling_params(defaults, max_tokens=limit, logprobs=logprobs, form=form)
    check_logprobs([prompt], [params], serving.config.max_logprobs, serving.engine.vocab_size, "top_logprobs")
    return Generation(
        response_id=response_id,
        prompts=[prompt],
        params=[params],
        options=body.options(user),
        timeout=serving.timeout(body.timeout),
        length_penalty=body.beam_length_penalty,
    )
