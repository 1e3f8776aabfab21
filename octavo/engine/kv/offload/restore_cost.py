"""What it takes to restore KV blocks, as measured, against what it takes to compute them."""

from __future__ import annotations

from octavo.engine.step_time import StepTime

_WEIGHT = 0.2
"""Of the newest measurement in the running mean."""


class RestoreCost:
    """Seconds a block: `write` into the KV cache, `read` from disk; None until one was measured."""

    __slots__ = ("_step_time", "read", "write")

    def __init__(self, step_time: StepTime) -> None:
        """`step_time` knows what computing takes."""
        self._step_time = step_time
        self.write: float | None = None
        self.read: float | None = None

    def observe_write(self, seconds: float) -> None:
        """A block was written to the KV cache."""
        self.write = _mean(self.write, seconds)

    def observe_read(self, seconds: float) -> None:
        """A block was read from disk."""
        self.read = _mean(self.read, seconds)

    def is_worth_it(self, num_blocks: int, num_reads: int, num_tokens: int, context: int) -> bool:
        """Whether `num_blocks` blocks are restored faster than `num_tokens` tokens after `context` computed.

        `num_reads` are read from disk for it, those included that are ahead in the queue. What was never
        measured is tried.
        """
        if not self._step_time.known:
            return True
        seconds = (self.write or 0.0) * num_blocks + (self.read or 0.0) * num_reads
        return seconds < self._step_time.prompt_seconds(num_tokens, context)


def _mean(mean: float | None, value: float) -> float:
    return value if mean is None else mean + _WEIGHT * (value - mean)
