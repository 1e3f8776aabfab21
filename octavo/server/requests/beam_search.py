"""A beam search on an engine that serves others too: each step's beams are requests like any other."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from itertools import islice

import msgspec

from octavo.frontend.async_engine import AsyncEngine
from octavo.frontend.beam_search import BeamSearch, BeamSearchParams, first_logprobs
from octavo.outputs import CompletionOutput, Logprob, RequestOutput
from octavo.request_options import RequestOptions
from octavo.server.requests.prompts import Prompt


async def beam_search(
    engine: AsyncEngine,
    prompt: Prompt,
    params: BeamSearchParams,
    request_id: str,
    options: RequestOptions,
    *,
    logprobs: int | None = None,
    timeout: float | None = None,
    on_first_token: Callable[[], None] | None = None,
) -> RequestOutput:
    """The best completions of `prompt`, once they are there; the beams as far as they are after `timeout`.

    Each token has its own log probability and the `logprobs` highest, or none if that is None. Being
    cancelled aborts what runs; raises what `generate` does.
    """
    of_beams = msgspec.structs.replace(options, group=request_id)
    search = BeamSearch(prompt.token_ids, params, engine.eos_token_ids, engine.max_model_len)
    step_params = search.step_params(logprobs or 0)
    first: RequestOutput | None = None
    num_steps = 0

    async def extend(index: int, tokens: list[int]) -> RequestOutput:
        beam_id = f"{request_id}-{num_steps}-{index}"
        async with aclosing(engine.generate(tokens, step_params, beam_id, of_beams)) as outputs:
            [output] = [output async for output in outputs if output.finished]
        return output

    reason = "length"
    try:
        async with asyncio.timeout(timeout):
            while not search.done:
                async with asyncio.TaskGroup() as group:
                    tasks = [
                        group.create_task(extend(index, beam.tokens))
                        for index, beam in enumerate(search.beams)
                    ]
                outputs = [task.result() for task in tasks]
                if first is None:
                    first = outputs[0]
                    if on_first_token is not None:
                        on_first_token()
                search.advance([first_logprobs(output) for output in outputs])
                num_steps += 1
    except TimeoutError:
        reason = "timeout"
    except ExceptionGroup as errors:  # One failed, the others were cancelled.
        raise errors.exceptions[0] from None
    completions = [
        search.completion(index, beam, engine.tokenizer.decode(search.generated(beam)))
        for index, beam in enumerate(search.best(reason))
    ]
    for completion in completions:
        completion.logprobs = None if logprobs is None else _most_likely(completion, logprobs)
    return RequestOutput(
        request_id=request_id,
        prompt=prompt.text,
        prompt_token_ids=prompt.token_ids,
        outputs=completions,
        finished=True,
        metrics=None if first is None else first.metrics,
        num_cached_tokens=0 if first is None else first.num_cached_tokens,
    )


def _most_likely(completion: CompletionOutput, count: int) -> list[dict[int, Logprob]]:
    """Of what the search looked at, each token itself and the `count` most likely, as `generate` has them."""
    return [
        {token_id: position[token_id], **dict(islice(position.items(), count))}
        for token_id, position in zip(completion.token_ids, completion.logprobs or [], strict=True)
    ]
