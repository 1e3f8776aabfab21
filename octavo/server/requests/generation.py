"""Run a request's prompts through the engine, counted, and closed whatever happens to the client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from typing import TypeVar

from octavo.frontend.async_engine import EngineDeadError
from octavo.frontend.beam_search import BeamSearchParams
from octavo.observe.request_timer import RequestTimer
from octavo.outputs import RequestOutput
from octavo.request_options import RequestOptions
from octavo.sampling_params import SamplingParams
from octavo.server.errors import APIError, bad_input
from octavo.server.openai.responses import PromptTokensDetails, Usage
from octavo.server.requests.beam_search import beam_search
from octavo.server.requests.generation_request import SAMPLING_FIELDS
from octavo.server.requests.prompts import Prompt
from octavo.server.requests.request_log import log_prompt
from octavo.server.serving import Serving
from octavo.server.state import Ticket

T = TypeVar("T")

ENGINE_FIELDS = (*SAMPLING_FIELDS, *RequestOptions.__struct_fields__)
"""Fields that the engine's errors may be about."""


@dataclass(slots=True)
class Generation:
    """Prompts to complete, each with its parameters."""

    response_id: str
    prompts: list[Prompt]
    params: list[SamplingParams]
    options: RequestOptions
    timeout: float | None = None
    """Seconds from when it runs; then what it has is all."""
    length_penalty: float | None = None
    """That of a beam search over `n` beams; None for sampling."""

    async def run(self, serving: Serving) -> AsyncGenerator[tuple[int, RequestOutput], None]:
        """The outputs of all prompts as they come, each with its prompt's index.

        Closing it aborts what is not finished. Raises APIError when the server is too busy to take it, the
        engine refuses or fails, or time is over before the only prompt has a token.
        """
        if serving.config.enable_log_requests:
            for prompt, params in zip(self.prompts, self.params, strict=True):
                log_prompt(self.response_id, prompt, params, serving.config.max_log_len)
        lengths = [len(prompt.token_ids) for prompt in self.prompts]
        tickets = await serving.state.admit(lengths, self.options)
        try:
            streams = [self._run_one(serving, index, ticket) for index, ticket in enumerate(tickets)]
            async with aclosing(merge(streams)) as outputs:
                async for output in outputs:
                    yield output
        finally:
            for ticket in tickets:
                ticket.leave()

    async def _run_one(
        self, serving: Serving, index: int, ticket: Ticket
    ) -> AsyncGenerator[RequestOutput, None]:
        params = self.params[index]
        trace = serving.trace(self.response_id, params)
        timer = RequestTimer(serving.state.series, params.n, params.max_tokens, trace)
        engine_id = serving.engine_id(self.response_id)
        outputs = self._outputs(serving, index, engine_id, ticket.started)
        has_token = False
        try:
            with bad_input(ENGINE_FIELDS), self._time_limit(serving, engine_id):
                async with aclosing(outputs):
                    async for output in outputs:
                        timer.update(output)
                        if any(each.token_ids for each in output.outputs):
                            has_token = True
                        elif not has_token and output.finished and len(self.prompts) == 1:
                            self._check_in_time(output)
                        yield output
        except APIError:
            raise
        except (asyncio.CancelledError, GeneratorExit):
            timer.end()
            raise
        except Exception as error:
            timer.fail()
            if isinstance(error, EngineDeadError):
                raise APIError(503, f"the engine is down: {error}") from error
            raise
        timer.end()

    async def _outputs(
        self, serving: Serving, index: int, engine_id: str, on_first_token: Callable[[], None]
    ) -> AsyncGenerator[RequestOutput, None]:
        """What the engine gives, a beam search all at once."""
        prompt, params = self.prompts[index], self.params[index]
        if self.length_penalty is None:
            async with aclosing(
                serving.engine.generate(
                    prompt.token_ids, params, engine_id, self.options, on_first_token=on_first_token
                )
            ) as outputs:
                async for output in outputs:
                    yield output
            return
        assert params.max_tokens is not None
        beams = BeamSearchParams(
            beam_width=params.n,
            max_tokens=params.max_tokens,
            ignore_eos=params.ignore_eos,
            length_penalty=self.length_penalty,
            include_stop_str_in_output=params.include_stop_str_in_output,
        )
        yield await beam_search(
            serving.engine,
            prompt,
            beams,
            engine_id,
            self.options,
            logprobs=params.logprobs,
            timeout=self.timeout,
            on_first_token=on_first_token,
        )

    @contextmanager
    def _time_limit(self, serving: Serving, engine_id: str) -> Iterator[None]:
        """End the request when its time is over."""
        if self.timeout is None:
            yield
            return
        loop = asyncio.get_running_loop()
        handle = loop.call_later(self.timeout, serving.engine.abort, engine_id, "timeout")
        try:
            yield
        finally:
            handle.cancel()

    def _check_in_time(self, output: RequestOutput) -> None:
        """Raise APIError for a request that ended without a token because its time was over."""
        if any(each.finish_reason == "timeout" for each in output.outputs):
            raise APIError(504, f"timeout: there was no token within {self.timeout:g} s", "timeout")


class UsageCount:
    """The tokens of a response, counted as its outputs come."""

    def __init__(self, prompts: Sequence[Prompt]) -> None:
        self._num_prompt_tokens = sum(len(prompt.token_ids) for prompt in prompts)
        self._num_completion_tokens = 0
        self._num_cached_tokens: dict[int, int] = {}

    def add(self, prompt_index: int, output: RequestOutput) -> None:
        """Count an output that holds only what is new."""
        for completion in output.outputs:
            self._num_completion_tokens += len(completion.token_ids)
        self._num_cached_tokens[prompt_index] = output.num_cached_tokens

    def usage(self) -> Usage:
        """The usage so far."""
        prompt, completion = self._num_prompt_tokens, self._num_completion_tokens
        details = PromptTokensDetails(sum(self._num_cached_tokens.values()))
        return Usage(prompt, completion, prompt + completion, details)


async def merge(streams: Sequence[AsyncGenerator[T, None]]) -> AsyncGenerator[tuple[int, T], None]:
    """Items of several generators as they come, each with its generator's index.

    At most one item a generator waits to be taken. The first error ends all; closing closes all.
    """
    if len(streams) == 1:
        async with aclosing(streams[0]) as stream:
            async for item in stream:
                yield 0, item
        return

    queue: asyncio.Queue[tuple[int, T] | Exception | None] = asyncio.Queue(maxsize=len(streams))

    async def pump(index: int, stream: AsyncGenerator[T, None]) -> None:
        try:
            async with aclosing(stream):
                async for item in stream:
                    await queue.put((index, item))
        except Exception as error:
            await queue.put(error)
        else:
            await queue.put(None)

    pumps = [asyncio.create_task(pump(index, stream)) for index, stream in enumerate(streams)]
    num_open = len(pumps)
    try:
        while num_open:
            entry = await queue.get()
            if isinstance(entry, Exception):
                raise entry
            if entry is None:
                num_open -= 1
            else:
                yield entry
    finally:
        for task in pumps:
            task.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)
