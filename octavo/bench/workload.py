"""What is timed: prompts of random tokens, and greedy tokens after them."""

from __future__ import annotations

from typing import Literal

import msgspec


class Workload(msgspec.Struct, frozen=True, kw_only=True):
    """`batch` prompts of `prompt_tokens` each; "prefill" times those, "decode" `output_tokens` after each."""

    kind: Literal["prefill", "decode"]
    prompt_tokens: int
    batch: int = 1
    output_tokens: int = 1

    @property
    def name(self) -> str:
        """A few words for a table."""
        if self.kind == "prefill":
            return f"prefill {self.prompt_tokens}"
        return f"decode {self.output_tokens}, batch {self.batch}"

    @property
    def longest(self) -> int:
        """Most tokens that a sequence comes to hold; those that start first are ahead of the others."""
        return self.prompt_tokens + self.output_tokens + self.batch

    @property
    def context(self) -> float:
        """The mean number of tokens that a timed token attends to."""
        if self.kind == "prefill":
            return (self.prompt_tokens + 1) / 2
        return self.prompt_tokens + (self.output_tokens + 1) / 2
