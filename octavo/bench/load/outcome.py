"""What became of one request."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class Outcome:
    """Times in seconds; `start` is from the benchmark's beginning, `gaps` are between pieces of the answer.

    A failed request has an `error` and no times that count.
    """

    prompt_tokens: int
    start: float = 0.0
    ttft: float = 0.0
    latency: float = 0.0
    gaps: list[float] = field(default_factory=list)
    output_tokens: int = 0
    text: str = ""
    error: str = ""

    @property
    def ok(self) -> bool:
        """Whether it was answered to the end."""
        return not self.error

    @property
    def tpot(self) -> float:
        """Mean time per token after the first, 0 where there is none."""
        return (self.latency - self.ttft) / (self.output_tokens - 1) if self.output_tokens > 1 else 0.0
