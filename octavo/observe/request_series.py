"""What the server says of each request, to whatever counts it: here, or in another process."""

from __future__ import annotations

from typing import Literal, Protocol

RequestValue = Literal[
    "ttft",
    "token_time",
    "e2e",
    "queue_time",
    "prefill_time",
    "decode_time",
    "inference_time",
    "prompt",
    "prefill_computed",
    "generation",
    "longest",
    "max_tokens",
    "choices",
]
"""What is measured of a request, in seconds or tokens; `Metrics` says what each is."""


class RequestSeries(Protocol):
    """The series of requests."""

    def observe(self, value: RequestValue, amount: float) -> None:
        """Count a request in a histogram."""
        ...

    def finished(self, reason: str) -> None:
        """Count a completion that ended with this finish reason."""
        ...

    def failed(self, num_choices: int) -> None:
        """Count a request that failed, of whose completions so many were still open."""
        ...

    def prompt_began(self, num_tokens: int, num_cached: int) -> None:
        """Count the prompt of a request that got its first token."""
        ...
