"""From steps of the engine to the outputs of requests.

The process that talks to users keeps, for each request, everything that was asked and everything that was
emitted. That is what makes an engine disposable: `resubmit` says what another engine must be told for an
open stream to go on with the token that it would have had.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec

from octavo.engine.messages import AddRequest, SequenceOutput, StepOutputs
from octavo.frontend.request import Request
from octavo.frontend.stop_strings import StopStrings
from octavo.outputs import CompletionOutput, Logprob, RequestMetrics, RequestOutput
from octavo.request_options import RequestOptions
from octavo.sampling.logprobs import TokenLogprobs
from octavo.sampling_params import RequestOutputKind, SamplingParams
from octavo.tokenizer.detokenizer import IncrementalDetokenizer

if TYPE_CHECKING:
    from octavo.tokenizer.tokenizer import Tokenizer

Logprobs = dict[int, Logprob]


class Child:
    """One of the sequences of a request: its tokens, its text, and how much of them was taken."""

    __slots__ = (
        "_detokenizer",
        "_stops",
        "_taken_tokens",
        "_tokenizer",
        "cumulative_logprob",
        "fresh",
        "index",
        "logprobs",
        "params",
        "pieces",
        "reason",
        "sequence_id",
        "stop_reason",
        "token_ids",
    )

    def __init__(
        self, sequence_id: str, index: int, params: SamplingParams, request: Request, tokenizer: Tokenizer
    ) -> None:
        self.sequence_id = sequence_id
        self.index = index
        self.params = params
        self.token_ids: list[int] = []
        self.pieces: list[str] = []
        """Text that may be shown and that `news` has not given out."""
        self.logprobs: list[Logprobs] | None = None if params.logprobs is None else []
        self.cumulative_logprob = None if params.logprobs is None else 0.0
        self.reason: str | None = None
        self.stop_reason: int | str | None = None
        self.fresh = False
        """Whether there is something that was not taken yet."""
        self._taken_tokens = 0
        self._tokenizer = tokenizer
        self._detokenizer = (
            IncrementalDetokenizer(
                tokenizer,
                request.prompt_token_ids,
                skip_special_tokens=params.skip_special_tokens,
                spaces_between_special_tokens=params.spaces_between_special_tokens,
            )
            if params.detokenize
            else None
        )
        self._stops = StopStrings(params.stop, params.include_stop_str_in_output) if params.stop else None

    def push(self, output: SequenceOutput) -> bool:
        """Take in what a step gave; returns whether a stop string ended the sequence here."""
        self.fresh = True
        if self._stops is None:
            self._emit(output.token_ids, output.logprobs)
            text = self._decode(output.token_ids, output.finish_reason)
            if text:
                self.pieces.append(text)
        else:
            for position, token_id in enumerate(output.token_ids):
                last = position == len(output.token_ids) - 1
                logprobs = output.logprobs and output.logprobs[position : position + 1]
                self._emit([token_id], logprobs)
                text = self._decode([token_id], output.finish_reason if last else None)
                search = len(self.token_ids) > self.params.min_tokens
                shown, stop = self._stops.push(text, search)
                if shown:
                    self.pieces.append(shown)
                if stop is not None:
                    self.finish("stop", stop)
                    return True
        if output.finish_reason is not None:
            self.finish(output.finish_reason, output.stop_reason)
        return False

    def finish(self, reason: str, stop_reason: int | str | None = None) -> None:
        """End the sequence; text that was held back can no longer become a stop string and is shown."""
        self.fresh = True
        self.reason, self.stop_reason = reason, stop_reason
        held = self._stops.flush() if self._stops is not None else ""
        if held:
            self.pieces.append(held)

    def everything(self) -> CompletionOutput:
        """The completion so far."""
        self.pieces = ["".join(self.pieces)]
        return self._completion(self.pieces[0], 0)

    def news(self) -> CompletionOutput:
        """What came since the last call."""
        completion = self._completion("".join(self.pieces), self._taken_tokens)
        self.pieces.clear()
        self._taken_tokens = len(self.token_ids)
        return completion

    def _completion(self, text: str, start: int) -> CompletionOutput:
        self.fresh = False
        return CompletionOutput(
            index=self.index,
            text=text,
            token_ids=self.token_ids[start:],
            cumulative_logprob=self.cumulative_logprob,
            logprobs=None if self.logprobs is None else self.logprobs[start:],
            finish_reason=self.reason,
            stop_reason=self.stop_reason,
        )

    def _emit(self, token_ids: list[int], logprobs: list[TokenLogprobs] | None) -> None:
        self.token_ids += token_ids
        if self.logprobs is not None and self.cumulative_logprob is not None:
            for each in logprobs or ():
                self.logprobs.append(decode_logprobs(each, self._tokenizer))
                self.cumulative_logprob += each.logprobs[0]

    def _decode(self, token_ids: list[int], finish_reason: str | None) -> str:
        """The text that `token_ids` add; a token that stopped the sequence shows only if it was asked to."""
        if self._detokenizer is None:
            return ""
        if finish_reason is None:
            return self._detokenizer.push(token_ids)
        if finish_reason == "stop" and not self.params.include_stop_str_in_output:
            token_ids = token_ids[:-1]
        return self._detokenizer.push(token_ids) + self._detokenizer.finish()


@dataclass(slots=True, eq=False)
class RequestState:
    """A request that is open, or whose last output was not taken yet."""

    request: Request
    options: RequestOptions
    """The request's, and the group that its sequences share their prompt's blocks by if it has several."""
    children: list[Child]
    num_open: int
    metrics: RequestMetrics
    prompt_logprobs: list[Logprobs | None] | None = None
    num_cached_tokens: int | None = None
    num_crashes: int = 0
    """Crashes of the engine since the request last got a token."""
    _prompt_logprobs_taken: bool = field(default=False)

    @property
    def finished(self) -> bool:
        """Whether all completions have ended."""
        return self.num_open == 0

    def take(self) -> RequestOutput | None:
        """What is new since the last call in the form that `output_kind` asks for, None if nothing is.

        Steps that nobody took one by one come as one output, so a slow reader costs no memory.
        """
        kind, ranked = self.request.params.output_kind, self.request.params.is_ranked
        if ranked and not self.finished:
            return None
        if ranked:
            outputs = self._best() if any(child.fresh for child in self.children) else []
            prompt_logprobs = self.prompt_logprobs
        elif kind is RequestOutputKind.DELTA:
            outputs = [child.news() for child in self.children if child.fresh]
            prompt_logprobs = None if self._prompt_logprobs_taken else self.prompt_logprobs
        elif self.finished or kind is RequestOutputKind.CUMULATIVE:
            fresh = any(child.fresh for child in self.children)
            outputs = [child.everything() for child in self.children] if fresh else []
            prompt_logprobs = self.prompt_logprobs
        else:
            return None
        if not outputs:
            return None
        self._prompt_logprobs_taken = self.prompt_logprobs is not None
        return RequestOutput(
            request_id=self.request.request_id,
            prompt=self.request.prompt,
            prompt_token_ids=self.request.prompt_token_ids,
            outputs=outputs,
            finished=self.finished,
            prompt_logprobs=prompt_logprobs,
            metrics=self.metrics,
            num_cached_tokens=self.num_cached_tokens or 0,
        )

    def _best(self) -> list[CompletionOutput]:
        """The `n` completions whose log probability per token is highest, the first of equals first."""
        params = self.request.params
        completions = sorted((child.everything() for child in self.children), key=_mean_logprob, reverse=True)
        for index, completion in enumerate(completions[: params.n]):
            completion.index = index
            if params.logprobs is None:
                completion.logprobs = None
        return completions[: params.n]


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


def child_params(params: SamplingParams, index: int) -> SamplingParams:
    """The parameters of completion `index`: one sequence, a seed of its own; child 0 scores the prompt.

    Where completions are ranked each needs its tokens' log probabilities.
    """
    if params.num_sequences == 1:
        return params
    assert params.seed is not None
    seed = (params.seed + index + 2**63) % 2**64 - 2**63
    prompt_logprobs = params.prompt_logprobs if index == 0 else None
    logprobs = 0 if params.logprobs is None and params.is_ranked else params.logprobs
    return msgspec.structs.replace(
        params, n=1, best_of=None, seed=seed, prompt_logprobs=prompt_logprobs, logprobs=logprobs
    )


def _mean_logprob(completion: CompletionOutput) -> float:
    """Per token; one without tokens (aborted at once) is worth nothing."""
    if not completion.token_ids:
        return -math.inf
    assert completion.cumulative_logprob is not None
    return completion.cumulative_logprob / len(completion.token_ids)


def decode_logprobs(logprobs: TokenLogprobs, tokenizer: Tokenizer) -> Logprobs:
    """The token's own log probability first, then the most likely ones; each token once."""
    ranks = (logprobs.rank, *range(1, len(logprobs.token_ids)))
    decoded: Logprobs = {}
    for token_id, logprob, rank in zip(logprobs.token_ids, logprobs.logprobs, ranks, strict=True):
        if token_id not in decoded:
            decoded[token_id] = Logprob(logprob, rank, tokenizer.token_text(token_id))
    return decoded
