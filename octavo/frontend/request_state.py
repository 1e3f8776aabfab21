"""A request that is open: its sequences, and its outputs in the form that it asks for."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from octavo.frontend.child import Child, Logprobs
from octavo.frontend.request import Request
from octavo.outputs import CompletionOutput, RequestMetrics, RequestOutput
from octavo.request_options import RequestOptions
from octavo.sampling_params import RequestOutputKind


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


def _mean_logprob(completion: CompletionOutput) -> float:
    """Per token; one without tokens (aborted at once) is worth nothing."""
    if not completion.token_ids:
        return -math.inf
    assert completion.cumulative_logprob is not None
    return completion.cumulative_logprob / len(completion.token_ids)
