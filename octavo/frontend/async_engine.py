"""The engine for a server: requests as asynchronous streams, and an engine process that may die.

The engine process is disposable. When it dies another one is started, and every open stream is resubmitted
with the tokens that it has. A token depends only on the request and its position, so each stream goes on
exactly as it would have.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any, Self

from octavo.config import EngineConfig
from octavo.engine.messages import (
    AbortRequests,
    AddRequest,
    DescribeState,
    EngineReady,
    EngineState,
    ResetPrefixCache,
    SchedulerStats,
    StepOutputs,
    ToEngine,
)
from octavo.frontend.client import Client, EngineClient
from octavo.frontend.descriptions import Descriptions
from octavo.frontend.mailbox import Mailbox
from octavo.frontend.output_processor import OutputProcessor
from octavo.frontend.read_model import read_model
from octavo.frontend.request import Prompt, RequestBuilder, check_policy_takes
from octavo.frontend.request_state import RequestState
from octavo.frontend.supervisor import ENGINE_COMMAND, EngineDeadError, RestartBudget
from octavo.frontend.suspects import Suspects
from octavo.model.load import resolve_model
from octavo.outputs import RequestOutput
from octavo.request_options import NO_OPTIONS, RequestOptions
from octavo.sampling_params import SamplingParams
from octavo.structured.params import StructuredOutputsParams
from octavo.tokenizer.tokenizer import Tokenizer

__all__ = ["AsyncEngine", "EngineDeadError"]

_log = logging.getLogger(__name__)

_COMPILE_SECONDS = 20.0
"""Bound on the time that a request waits for its grammar. llguidance's limits keep it far shorter."""


class AsyncEngine:
    """An engine process and its open requests. Everything here belongs to the event loop that started it."""

    def __init__(
        self,
        config: EngineConfig,
        requests: RequestBuilder,
        command: Sequence[str] = ENGINE_COMMAND,
        source: str = "",
    ) -> None:
        """Not started yet: see `start`, which also reads the model. `command` runs the engine process.

        `source` tells the sequences from those of other clients of the same engine.
        """
        self.config = config
        self.stats = SchedulerStats()
        """The engine's state after its latest step; its totals go on when the process is replaced."""
        self.num_restarts = 0
        self.on_step: Callable[[StepOutputs], None] | None = None
        """Called with each step as it comes in, for metrics."""
        self.sampling_defaults: dict[str, Any] = {}
        """Fields of `SamplingParams` for requests that do not set them, as the model or operator wants."""
        self.ready: EngineReady
        self._requests = requests
        self._command = command
        self._processor = OutputProcessor(requests.tokenizer, source)
        self._mailboxes: dict[str, Mailbox] = {}
        self._has_vocabulary: Client | None = None
        """The client whose engine was told the tokens that grammars are made of."""
        self._client: Client | None = None
        """That of an engine that is ready, None while there is none."""
        self._descriptions = Descriptions()
        self._restarting: asyncio.Task[None] | None = None
        self._budget = RestartBudget()
        self._suspects = Suspects()
        self._past = SchedulerStats()
        """Totals of the engines that died."""
        self._dead: str | None = None
        """Why no engine will run any more."""

    @classmethod
    async def start(cls, config: EngineConfig) -> Self:
        """Start an engine and wait until it is ready.

        Raises ValueError for a model or a setting that can not be, and EngineDeadError, its reason in one
        line, when the engine process can not start.
        """
        path = await asyncio.to_thread(resolve_model, config.model)
        config = dataclasses.replace(config, model=str(path))
        client = cls._new_client(config, ENGINE_COMMAND)
        try:  # we read the tokenizer while the engine process reads the weights
            requests, sampling = await asyncio.to_thread(read_model, path, config)
            engine = cls(config, requests)
            engine.sampling_defaults = sampling
            await engine.launch(client)
        except BaseException:
            client.kill()
            raise
        return engine

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer."""
        return self._requests.tokenizer

    @property
    def max_model_len(self) -> int:
        """Most tokens, prompt and completion, of a request."""
        return self._requests.max_model_len

    @property
    def vocab_size(self) -> int:
        """Number of token ids that the model has."""
        return self._requests.vocab_size

    @property
    def eos_token_ids(self) -> list[int]:
        """The tokens that end a sequence."""
        return self._requests.eos_token_ids

    @property
    def healthy(self) -> bool:
        """Whether an engine runs; False too for the moment that replacing a dead one takes."""
        return self._client is not None

    @property
    def pid(self) -> int | None:
        """Process id of the engine that runs, if any."""
        return self._client.pid if self._client is not None else None

    async def generate(
        self,
        prompt: Prompt,
        params: SamplingParams,
        request_id: str,
        options: RequestOptions = NO_OPTIONS,
        *,
        on_first_token: Callable[[], None] | None = None,
    ) -> AsyncGenerator[RequestOutput, None]:
        """Run a request; yields its outputs, the last one with `finished` set.

        A reader that is slow gets what it missed in one output. Closing or cancelling the generator aborts
        the request and frees its blocks. `on_first_token` is called when that is there, taken or not. At the
        first step raises ValueError for a request that can not run; EngineDeadError when the engine is gone
        for good.
        """
        if self._dead is not None:
            raise EngineDeadError(self._dead)
        check_policy_takes(options.priority, self.config.scheduling_policy)
        if params.structured_outputs is not None:
            await self.check_structured_outputs(params.structured_outputs)
        request = self._requests.build(prompt, params, request_id, options)
        state, messages = self._processor.add(request)
        mailbox = self._mailboxes[request_id] = Mailbox(state, on_first_token)
        self._send(messages)
        try:
            while True:
                if mailbox.error is not None:
                    raise EngineDeadError(mailbox.error)
                output = state.take()
                if output is not None:
                    yield output
                elif state.finished:
                    return
                else:
                    await mailbox.wait()
        finally:
            if not state.finished:
                self.abort(request_id)

    async def check_structured_outputs(self, params: StructuredOutputsParams) -> None:
        """Raise ValueError, naming the field, unless outputs can have that form.

        Compiles the grammar on a thread; what was compiled lately is kept.
        """
        compiling = asyncio.wrap_future(self._requests.compile(params))
        try:
            await asyncio.wait_for(compiling, _COMPILE_SECONDS)
        except TimeoutError:
            raise ValueError(
                f"structured_outputs.{params.kind} takes longer than {_COMPILE_SECONDS:g} s to compile"
            ) from None

    def abort(self, request_id: str, reason: str = "abort") -> None:
        """End a request with that finish reason; ignores one that is not open."""
        self._tell(*self._processor.abort([request_id], reason))

    def reset_prefix_cache(self) -> None:
        """Forget every cached block that no sequence holds."""
        self._send([ResetPrefixCache()])

    async def describe(self, *, tree: bool = False, tokens: bool = False) -> EngineState | None:
        """What the engine holds between two steps, with the tree of prefixes and its tokens if asked for.

        Comes after the step that runs. None when no engine runs, or it dies before it has answered.
        """
        if self._client is None:
            return None
        state = self._descriptions.ask()
        self._send([DescribeState(tree, tokens)])
        return await state

    async def stop(self) -> None:
        """Abort what is open, and end the engine process after its current step."""
        self._end("the engine was stopped")
        if self._restarting is not None:
            self._restarting.cancel()
            await asyncio.wait([self._restarting])
        client, self._client = self._client, None
        self._descriptions.give_up()
        if client is not None:
            await client.stop()

    async def launch(self, client: EngineClient | None = None) -> None:
        """Start an engine process, or take over one; resubmit what is open.

        Raises EngineDeadError when the process does not get ready.
        """
        own = client or self._new_client(self.config, self._command)
        try:
            ready = await own.ready
        except BaseException:
            own.kill()
            raise
        own.on_lost = lambda reason, crashed: self._on_lost(own, reason, crashed)
        self._take_over(own, ready)

    @staticmethod
    def _new_client(config: EngineConfig, command: Sequence[str]) -> EngineClient:
        return EngineClient(config, command)

    def _take_over(self, client: Client, ready: EngineReady) -> None:
        """Send this engine every open request, and those that come from now on."""
        self.ready = ready
        self._requests.max_model_len = ready.max_model_len
        client.on_step, client.on_state = self._take_step, self._descriptions.take
        self._client = client
        for state in self._suspects.restart(self._processor.states):
            self._send(self._processor.resubmit(state))
        self._try_next_suspect()

    def _take_step(self, step: StepOutputs) -> None:
        self.stats = step.stats = step.stats.after(self._past)
        if self.on_step is not None:
            self.on_step(step)
        self._tell(*self._processor.process(step))

    def _abort(self, request_ids: list[str]) -> None:
        self._tell(*self._processor.abort(request_ids))

    def _tell(self, states: list[RequestState], aborted: list[str]) -> None:
        """Tell the engine which sequences to abort, and the streams of these requests that there is news."""
        if aborted:
            self._send([AbortRequests(aborted)])
        self._wake(states)
        self._try_next_suspect()

    def _try_next_suspect(self) -> None:
        state = self._suspects.next()
        if state is not None:
            self._send(self._processor.resubmit(state))

    def _send(self, messages: Sequence[ToEngine]) -> None:
        """Send to the engine that runs; without one, the next is told of every open request anyway."""
        client = self._client
        if client is None:
            return
        for message in messages:
            needs_vocabulary = (
                isinstance(message, AddRequest) and message.params.structured_outputs is not None
            )
            if needs_vocabulary and self._has_vocabulary is not client:
                self._has_vocabulary = client
                client.send(self._requests.grammars.vocabulary)
            client.send(message)

    def _wake(self, states: list[RequestState]) -> None:
        for state in states:
            mailboxes, request_id = self._mailboxes, state.request.request_id
            mailbox = mailboxes.pop(request_id) if state.finished else mailboxes[request_id]
            if mailbox.on_first_token is not None and state.metrics.first_token_time is not None:
                mailbox.on_first_token()
                mailbox.on_first_token = None
            mailbox.wake()

    def _on_lost(self, client: EngineClient, reason: str, crashed: bool) -> None:
        """The engine died: replace it."""
        self._lose(reason, crashed)
        self._restarting = asyncio.get_running_loop().create_task(self._replace(client, reason))

    def _lose(self, reason: str, crashed: bool) -> None:
        """Go on without an engine, and without the request that is sure to be what kills it."""
        self._client = None
        self._descriptions.give_up()
        self._past = self.stats
        _log.warning("%s; starting another one for %d open requests", reason, len(self._processor))
        if crashed:
            guilty = self._suspects.crash(self._processor.states)
            if guilty is not None:
                self._fail([guilty], f"{reason}, each time that it ran this request")

    async def _replace(self, client: EngineClient, reason: str) -> None:
        started = time.monotonic()
        await client.exited()  # two at a time may not fit in memory
        while self._budget.spend(time.monotonic()):
            try:
                await self.launch()
            except EngineDeadError as error:
                reason = str(error)
                _log.warning("%s", reason)
                continue
            self.num_restarts += 1
            _log.warning("another engine took over after %.2f s", time.monotonic() - started)
            return
        budget = self._budget
        self._end(f"{reason} (gave up after {budget.limit} restarts in {budget.window:g} s)")

    def _end(self, error: str) -> None:
        """Fail what is open, and every request from now on."""
        self._dead = self._dead or error
        self._fail(self._processor.states, error)

    def _fail(self, states: list[RequestState], error: str) -> None:
        request_ids = [state.request.request_id for state in states]
        for request_id in request_ids:
            self._mailboxes[request_id].error = error
        self._abort(request_ids)
