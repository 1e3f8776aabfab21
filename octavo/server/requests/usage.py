"""The tokens of an answer, counted as its outputs come."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from octavo.outputs import RequestOutput
from octavo.server.requests.prompts import Prompt


class Usage(NamedTuple):
    """Tokens of an answer, over all its prompts and choices; each API has its own names for them."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    """Of the prompts' tokens, those that the prefix cache gave."""

    @property
    def total_tokens(self) -> int:
        """Tokens of prompts and completions."""
        return self.prompt_tokens + self.completion_tokens


class UsageCount:
    """Counts the tokens of one answer."""

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
        cached = sum(self._num_cached_tokens.values())
        return Usage(self._num_prompt_tokens, self._num_completion_tokens, cached)
