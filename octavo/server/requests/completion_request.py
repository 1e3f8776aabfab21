"""The body of a completion: OpenAI's, with vLLM's additions; null always means the default.

Sources: the OpenAI API reference (completions) and vLLM's OpenAI-compatible server.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from octavo.sampling_params import SamplingParams
from octavo.server.errors import APIError
from octavo.server.requests.generation_request import FieldNames, GenerationRequest, Wanted
from octavo.server.requests.output_form import OutputForm

DEFAULT_MAX_TOKENS = 16


class CompletionRequest(GenerationRequest, kw_only=True, forbid_unknown_fields=True):
    """The body of `POST /v1/completions`; `prompt` is text or token ids, or a list of either."""

    prompt: str | list[str | int | list[int]]
    logprobs: int | None = None
    suffix: str | None = None
    prompt_embeds: Any = None

    def check(self) -> None:
        """Raise APIError for what the types allow but the server does not."""
        super().check()
        if self.echo and self.stream and self.logprobs is not None and (self.n or 1) > 1:
            raise APIError(400, "echo: with logprobs and stream=true, only with n=1", "echo")

    def wanted(self) -> Wanted:
        # max_tokens=0 with echo scores the prompt; the engine makes at least one token, which is dropped.
        prompt_only = bool(self.echo) and self.max_tokens == 0
        max_tokens = 1 if prompt_only else self.max_tokens
        names = FieldNames("prompt", "max_tokens", "logprobs")
        return Wanted(max_tokens, DEFAULT_MAX_TOKENS, self.logprobs, names, prompt_only)

    def sampling_params(
        self,
        defaults: Mapping[str, Any],
        *,
        max_tokens: int,
        logprobs: int | None,
        form: OutputForm | None = None,
    ) -> SamplingParams:
        params = super().sampling_params(defaults, max_tokens=max_tokens, logprobs=logprobs, form=form)
        if self.echo and self.logprobs is not None:
            params.prompt_logprobs = self.logprobs
        return params
