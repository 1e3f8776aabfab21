"""Beam search: the completions that are likely as a whole, not token by token. vLLM's parameters and results.

The search itself is plain data; whoever has an engine runs its beams, each as a request for one token whose
prompt is the beam. The beams begin alike, and the prefix cache is exact to the token, so each beam gets
everything that has been computed. A step of the search costs as much as a decode step of as many sequences.
Their blocks are shared and copied on write.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from octavo.outputs import CompletionOutput, Logprob, RequestOutput
from octavo.sampling_params import MAX_LOGPROBS, SamplingParams, check_integer, check_number

MAX_BEAM_WIDTH = MAX_LOGPROBS // 2
LENGTH_PENALTY_RANGE = (-10.0, 10.0)

Logprobs = Mapping[int, Logprob]


class BeamSearchParams(msgspec.Struct, kw_only=True):
    """Parameters of a beam search, with vLLM's names and meanings.

    `beam_width` beams are kept and given. `length_penalty` is the power of a sequence's length that its
    log probability is divided by, so that more favours longer ones. `temperature` is accepted and changes
    nothing: log probabilities are those of the model.

    Raises ValueError that names the field, what it got and what it takes.
    """

    beam_width: int
    max_tokens: int
    ignore_eos: bool = False
    temperature: float = 0.0
    length_penalty: float = 1.0
    include_stop_str_in_output: bool = False

    def __post_init__(self) -> None:
        check_integer("beam_width", self.beam_width, 1, MAX_BEAM_WIDTH)
        check_integer("max_tokens", self.max_tokens, 1, 2**31 - 1)
        check_number("temperature", self.temperature, 0.0, 1e3)
        check_number("length_penalty", self.length_penalty, *LENGTH_PENALTY_RANGE)


@dataclass(slots=True)
class BeamSearchSequence:
    """A beam: all its tokens, the prompt's first, and for each generated one what was most likely there.

    `finish_reason` is "stop" where an end-of-sequence token, `stop_reason`, ended it, which `tokens` has only
    with `include_stop_str_in_output`; else "length". `text` is the text of `tokens`.
    """

    tokens: list[int]
    logprobs: list[dict[int, Logprob]] = field(default_factory=list)
    cum_logprob: float = 0.0
    text: str = ""
    finish_reason: str | None = None
    stop_reason: int | None = None


@dataclass(slots=True)
class BeamSearchOutput:
    """The best sequences of a prompt, the best first."""

    sequences: list[BeamSearchSequence]


class BeamSearch:
    """The search over the completions of one prompt: run `beams`, then `advance`, until `done`.

    A sequence's score is its log probability by its length, prompt included and end of sequence not, as in
    vLLM and transformers. Each step extends every beam by its most likely tokens, twice as many as there
    are beams, so that ends of sequence, which leave, never leave too few.
    """

    def __init__(
        self,
        prompt_token_ids: list[int],
        params: BeamSearchParams,
        eos_token_ids: Collection[int],
        max_model_len: int,
    ) -> None:
        self.beams = [BeamSearchSequence(list(prompt_token_ids))]
        self._params = params
        self.num_prompt_tokens = len(prompt_token_ids)
        self._most_tokens = min(len(prompt_token_ids) + params.max_tokens, max_model_len)
        self._ends = frozenset(() if params.ignore_eos else eos_token_ids)
        self._completed: list[tuple[float, BeamSearchSequence]] = []

    @property
    def done(self) -> bool:
        """Whether no beam can grow, or none can grow into one of the best."""
        if not self.beams or len(self.beams[0].tokens) >= self._most_tokens:
            return True
        if len(self._completed) < self._params.beam_width:
            return False
        return self._best_to_come() <= self._completed[-1][0]

    def step_params(self, logprobs: int = 0) -> SamplingParams:
        """What to ask of each beam: one token, and at least `logprobs` alternatives of it."""
        return SamplingParams(
            max_tokens=1,
            temperature=0.0,
            seed=0,
            ignore_eos=True,
            detokenize=False,
            logprobs=max(2 * self._params.beam_width, logprobs),
        )

    def advance(self, results: Sequence[Logprobs]) -> None:
        """Go on from what the model says after each of `beams`, the most likely tokens first."""
        width = self._params.beam_width
        candidates = []
        for beam, logprobs in zip(self.beams, results, strict=True):
            for token_id, logprob in list(logprobs.items())[: 2 * width]:
                cumulative = beam.cum_logprob + logprob.logprob
                if token_id in self._ends:
                    self._complete(beam, logprobs, token_id, cumulative)
                else:
                    candidates.append((cumulative, beam, logprobs, token_id))
        # All are equally long: the order of their scores is that of their log probabilities.
        candidates.sort(key=lambda each: each[0], reverse=True)
        self.beams = [
            BeamSearchSequence([*beam.tokens, token_id], [*beam.logprobs, dict(logprobs)], cumulative)
            for cumulative, beam, logprobs, token_id in candidates[:width]
        ]

    def best(self, reason: str = "length") -> list[BeamSearchSequence]:
        """The sequences with the highest scores, at most `beam_width`; the text is for the caller to fill.

        `reason` is why those that have not come to their end are not longer.
        """
        for beam in self.beams:
            beam.finish_reason = reason
        open_beams = [(self._score(beam.cum_logprob, len(beam.tokens)), beam) for beam in self.beams]
        scored = self._completed + open_beams
        scored.sort(key=lambda each: each[0], reverse=True)
        return [beam for _, beam in scored[: self._params.beam_width]]

    def completion(self, index: int, beam: BeamSearchSequence, text: str) -> CompletionOutput:
        """A sequence of `best` as a completion, its `text` without the prompt's."""
        return CompletionOutput(
            index=index,
            text=text,
            token_ids=self.generated(beam),
            cumulative_logprob=beam.cum_logprob,
            logprobs=beam.logprobs,
            finish_reason=beam.finish_reason,
            stop_reason=beam.stop_reason,
        )

    def generated(self, beam: BeamSearchSequence) -> list[int]:
        """The tokens of a beam without the prompt's."""
        return beam.tokens[self.num_prompt_tokens :]

    def _complete(
        self, beam: BeamSearchSequence, logprobs: Logprobs, token_id: int, cumulative: float
    ) -> None:
        shown = self._params.include_stop_str_in_output
        sequence = BeamSearchSequence(
            tokens=[*beam.tokens, token_id] if shown else beam.tokens,
            logprobs=[*beam.logprobs, dict(logprobs)] if shown else beam.logprobs,
            cum_logprob=cumulative,
            finish_reason="stop",
            stop_reason=token_id,
        )
        self._completed.append((self._score(cumulative, len(beam.tokens)), sequence))
        self._completed.sort(key=lambda each: each[0], reverse=True)
        del self._completed[self._params.beam_width :]

    def _best_to_come(self) -> float:
        """A bound on the score of whatever the beams may become: nothing makes them more likely."""
        best = self.beams[0]
        return max(self._score(best.cum_logprob, length) for length in (len(best.tokens), self._most_tokens))

    def _score(self, cumulative: float, length: int) -> float:
        score: float = cumulative / length**self._params.length_penalty
        return score


def first_logprobs(output: RequestOutput) -> dict[int, Logprob]:
    """What the model says of the one token of a step's request."""
    logprobs = output.outputs[0].logprobs
    if not logprobs:
        raise ValueError(f"request {output.request_id} ended without a token")
    return logprobs[0]
