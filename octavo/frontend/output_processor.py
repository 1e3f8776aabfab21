"""From steps of the engine to the outputs of requests.

The process that talks to users keeps, for each request, everything that was asked and everything that was
emitted. That is what makes an engine disposable: `resubmit` says what another engine must be told for an
open stream to go on with the token that it would have had.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import msgspec

from octavo.engine.messages import AddRequest, SequenceOutput, StepOutputs
from octavo.frontend.child import Child, child_params, decode_logprobs
from octavo.frontend.request import Request
from octavo.frontend.request_state import RequestState
from octavo.outputs import RequestMetrics

if TYPE_CHECKING:
    from octavo.tokenizer.tokenizer import Tokenizer


class OutputProcessor:
    """The open requests of an engine, by request id and by the ids of their sequences."""

    def __init__(self, tokenizer: Tokenizer, source: str = "") -> None:
        """`source` tells the sequences from those of other clients of the same engine."""
        self._tokenizer = tokenizer
        self._source = source
        self._states: dict[str, RequestState] = {}
        self._children: dict[str, tuple[RequestState, Child]] = {}
        self._serial = 0

    def __len__(self) -> int:
        return len(self._states)

    @property
    def states(self) -> list[RequestState]:
        """The open requests in order of arrival."""
        return list(self._states.values())

    def add(self, request: Request) -> tuple[RequestState, list[AddRequest]]:
        """Open a request; returns its state and what the engine must be told.

        Each completion `i` is a sequence of its own with seed `seed + i`. Sequence ids carry a serial
        number: outputs of an aborted request that are still on their way can never reach a new request
        that has the same id. Raises ValueError when a request with this id is open.
        """
        if request.request_id in self._states:
            raise ValueError(f"request_id {request.request_id!r} is in use by a request that is running")
        self._serial += 1
        serial = f"{self._source}{self._serial}"
        count = request.params.num_sequences
        options = request.options
        if count > 1 and not options.group:
            options = msgspec.structs.replace(options, group=f"{request.request_id}#{serial}")
        state = RequestState(request, options, [], count, RequestMetrics(request.arrival_time))
        for index in range(count):
            name = request.request_id if count == 1 else f"{index}_{request.request_id}"
            params = child_params(request.params, index)
            child = Child(f"{name}#{serial}", index, params, request, self._tokenizer)
            state.children.append(child)
            self._children[child.sequence_id] = (state, child)
        self._states[request.request_id] = state
        return state, self.resubmit(state)

    def process(self, step: StepOutputs) -> tuple[list[RequestState], list[str]]:
        """Take in a step; returns the requests that have news and the sequences that the engine must abort.

        Those are the ones that a stop string ended. Tokens of a sequence that has ended are discarded.
        """
        now = time.monotonic()
        states: dict[str, RequestState] = {}
        aborts = []
        for output in step.outputs:
            found = self._children.get(output.request_id)
            if found is None:
                continue
            state, child = found
            if child.push(output) and output.finish_reason is None:
                aborts.append(child.sequence_id)
            self._note(state, output, now)
            if child.reason is not None:
                self._close(state, child, now)
            states[state.request.request_id] = state
        return list(states.values()), aborts

    def abort(self, request_ids: list[str], reason: str = "abort") -> tuple[list[RequestState], list[str]]:
        """End requests with that finish reason; returns their states and the sequences to abort.

        Ids of requests that are not open are ignored.
        """
        now = time.monotonic()
        states, sequence_ids = [], []
        for request_id in request_ids:
            state = self._states.get(request_id)
            if state is None:
                continue
            for child in state.children:
                if child.reason is None:
                    child.finish(reason)
                    sequence_ids.append(child.sequence_id)
                    self._close(state, child, now)
            states.append(state)
        return states, sequence_ids

    def resubmit(self, state: RequestState) -> list[AddRequest]:
        """What a new engine must be told so that each open sequence of a request goes on where it is."""
        request = state.request
        return [
            AddRequest(
                request_id=child.sequence_id,
                prompt_token_ids=request.prompt_token_ids,
                params=child.params,
                eos_token_ids=request.eos_token_ids,
                arrival_time=request.arrival_time,
                output_token_ids=list(child.token_ids),
                options=state.options,
            )
            for child in state.children
            if child.reason is None
        ]

    def _note(self, state: RequestState, output: SequenceOutput, now: float) -> None:
        state.num_crashes = 0
        if state.num_cached_tokens is None:
            state.num_cached_tokens = output.num_cached_tokens
        if state.metrics.first_token_time is None and output.token_ids:
            state.metrics.first_token_time = now
        if state.metrics.scheduled_time is None and output.scheduled_time:
            state.metrics.scheduled_time = output.scheduled_time
        if output.prompt_logprobs is not None and state.prompt_logprobs is None:
            state.prompt_logprobs = [
                None if each is None else decode_logprobs(each, self._tokenizer)
                for each in output.prompt_logprobs
            ]

    def _close(self, state: RequestState, child: Child, now: float) -> None:
        del self._children[child.sequence_id]
        state.num_open -= 1
        if state.finished:
            state.metrics.finished_time = now
            del self._states[state.request.request_id]
