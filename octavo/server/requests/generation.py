"""What is asked of the engine, and each of its prompts run there, timed, whatever becomes of the client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass

from octavo.frontend.async_engine import EngineDeadError
from octavo.frontend.beam_search import BeamSearchParams
from octavo.observe.request_timer import RequestTimer
from octavo.outputs import RequestOutput
from octavo.request_options import RequestOptions
from octavo.sampling_params import SamplingParams
from octavo.server.errors import APIError, bad_input
from octavo.server.requests.beam_search import beam_search
from octavo.server.requests.generation_request import SAMPLING_FIELDS
from octavo.server.requests.prompts import Prompt
from octavo.server.serving import Serving
from octavo.server.state import Ticket

ENGINE_FIELDS = (*SAMPLING_FIELDS, *RequestOptions.__struct_fields__)
"""Fields that the engine's errors may be about."""


@dataclass(slots=True)
class Generation:
    """Prompts to complete, each with its parameters, for an answer of that id and from that model."""

    response_id: str
    model: str
    prompts: list[Prompt]
    params: list[SamplingParams]
    options: RequestOptions
    timeout: float | None = None
    """Seconds from when it runs; then what it has is all."""
    length_penalty: float | None = None
    """That of a beam search over `n` beams; None for sampling."""
    prompt_only: bool = False
    """Whether only the prompts are wanted: the token that the engine makes after each is dropped."""

    @property
    def num_choices(self) -> int:
        """Completions of each prompt."""
        return self.params[0].n

    async def run(
        self, serving: Serving, index: int, ticket: Ticket
    ) -> AsyncGenerator[tuple[int, RequestOutput], None]:
        """`index` and the outputs of that prompt as they come.

        Closing it aborts the request. Raises APIError when the engine refuses it or fails, or when time is
        over before the only prompt has a token.
        """
        params = self.params[index]
        trace = serving.trace(self.response_id, params)
        timer = RequestTimer(serving.state.series, params.n, params.max_tokens, trace)
        engine_id = serving.engine_id(self.response_id)
        has_token = False
        try:
            with bad_input(ENGINE_FIELDS), self._time_limit(serving, engine_id):
                async with aclosing(self._outputs(serving, index, engine_id, ticket.started)) as outputs:
                    async for output in outputs:
                        timer.update(output)
                        if not has_token:
                            has_token = any(each.token_ids for each in output.outputs)
                            if not has_token and output.finished and len(self.prompts) == 1:
                                self._check_in_time(output)
                        yield index, output
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

    def _outputs(
        self, serving: Serving, index: int, engine_id: str, on_first_token: Callable[[], None]
    ) -> AsyncGenerator[RequestOutput, None]:
        if self.length_penalty is not None:
            return self._beams(serving, index, engine_id, on_first_token)
        prompt, params = self.prompts[index], self.params[index]
        return serving.engine.generate(
            prompt.token_ids, params, engine_id, self.options, on_first_token=on_first_token
        )

    async def _beams(
        self, serving: Serving, index: int, engine_id: str, on_first_token: Callable[[], None]
    ) -> AsyncGenerator[RequestOutput, None]:
        """What a beam search gives, all at once."""
        params = self.params[index]
        assert params.max_tokens is not None
        assert self.length_penalty is not None
        beams = BeamSearchParams(
            beam_width=params.n,
            max_tokens=params.max_tokens,
            ignore_eos=params.ignore_eos,
            length_penalty=self.length_penalty,
            include_stop_str_in_output=params.include_stop_str_in_output,
        )
        yield await beam_search(
            serving.engine,
            self.prompts[index],
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
