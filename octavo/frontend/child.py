"""One of the sequences of a request: from its tokens to its text, and what of it was taken."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from octavo.engine.messages import SequenceOutput
from octavo.frontend.request import Request
from octavo.frontend.stop_strings import StopStrings
from octavo.outputs import CompletionOutput, Logprob
from octavo.sampling.logprobs import TokenLogprobs
from octavo.sampling_params import SamplingParams
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


def decode_logprobs(logprobs: TokenLogprobs, tokenizer: Tokenizer) -> Logprobs:
    """The token's own log probability first, then the most likely ones; each token once."""
    ranks = (logprobs.rank, *range(1, len(logprobs.token_ids)))
    decoded: Logprobs = {}
    for token_id, logprob, rank in zip(logprobs.token_ids, logprobs.logprobs, ranks, strict=True):
        if token_id not in decoded:
            decoded[token_id] = Logprob(logprob, rank, tokenizer.token_text(token_id))
    return decoded
