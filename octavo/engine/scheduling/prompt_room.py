"""What a step has left for prompts, in tokens, rows of logits and time, and the chunks that take it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from octavo.engine.sequence import Sequence
from octavo.engine.step_time import StepTime

_FIRST_TOKENS = 16
"""Tokens of a prompt in a step whose time is limited while nothing is known of how long steps take."""


@dataclass(slots=True)
class Chunk:
    """The `count` tokens of a sequence that follow its first `context`, which are computed or cached.

    It ends at `last_slot` at most.
    """

    sequence: Sequence
    context: int
    is_long: bool
    last_slot: float = math.inf
    count: int = 0

    @property
    def end(self) -> int:
        """Tokens of the sequence up to the chunk's last."""
        return self.context + self.count

    @property
    def num_left(self) -> int:
        """Tokens of the sequence after the chunk."""
        return len(self.sequence.token_ids) - self.end


@dataclass(slots=True)
class PromptRoom:
    """Prompts take from it until one of its bounds is reached.

    `outputs` are rows of logits beyond one a sequence, for prompts that want log probabilities. `seconds`
    are for all prompts, `long_seconds` for the long ones among them; inf is no limit. `longest_chunk` is
    the most tokens of one long prompt.
    """

    step_time: StepTime
    tokens: int
    outputs: int
    seconds: float = math.inf
    long_seconds: float = math.inf
    longest_chunk: float = math.inf

    @property
    def is_timed(self) -> bool:
        """Whether time limits what a long prompt may take."""
        return min(self.seconds, self.long_seconds) < math.inf

    def most(self, chunk: Chunk, parts: int = 1) -> int:
        """How many tokens `chunk` can grow by, from one of `parts` equal parts of the room."""
        most: float = min(chunk.num_left, chunk.last_slot - chunk.end, self.tokens // parts)
        seconds = self.seconds / parts
        if chunk.is_long:
            most = min(most, self.longest_chunk - chunk.count)
            seconds = min(seconds, self.long_seconds / parts)
        if chunk.sequence.num_prompt_logprobs is not None:
            most = min(most, self.outputs + (chunk.count == 0))  # One row is the sequence's own.
        if seconds < math.inf:
            known = self.step_time.known
            most = min(most, self.step_time.tokens_within(seconds, chunk.end) if known else _FIRST_TOKENS)
        return max(0, int(most))

    def grow(self, chunk: Chunk, count: int) -> None:
        """`chunk` takes `count` more tokens."""
        self.tokens -= count
        if chunk.sequence.num_prompt_logprobs is not None and count:
            self.outputs -= count - (chunk.count == 0)
        if self.is_timed and self.step_time.known:
            seconds = self.step_time.prompt_seconds(count, chunk.end)
            self.seconds -= seconds
            if chunk.is_long:
                self.long_seconds -= seconds
        chunk.count += count
