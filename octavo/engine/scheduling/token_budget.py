"""How much of a step prompts may take beside the sequences that decode, so that targets are met."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from octavo.engine.scheduling.prompt_room import Chunk, PromptRoom
from octavo.engine.step_time import StepTime

LONG_PROMPT_TIME = 0.65
"""Time for long prompts in a step, in units of what it takes without: decodes slow down by no more."""

_MARGIN = 0.85
"""Of the target between tokens: steps vary, and the way to the client takes time too."""
_TTFT_MARGIN = 0.75
"""Of the time left to a first token: chunks are whole tokens, and the last may be a whole step."""
_LEAST_TIME = 0.1
"""Time for prompts in a step whose decodes alone miss the target, in units of what those take."""


@dataclass(frozen=True, slots=True)
class Targets:
    """Service levels in seconds, None for none: `ttft` to the first token, `itl` between tokens."""

    ttft: float | None = None
    itl: float | None = None


class TokenBudget:
    """Learns how long steps take, and says what prompts may take of the next.

    While sequences decode, prompts get of a step what `targets.itl` leaves. Without that target only the
    tokens of the step limit them. Long prompts are an exception: they slow the decodes down by no more than
    `LONG_PROMPT_TIME`, or by as much as it takes to have every prompt's first token within `targets.ttft`.
    """

    def __init__(self, targets: Targets, long_chunk: int = 0) -> None:
        """`long_chunk`, if not 0, is the most tokens of a long prompt in a step, whatever time they take."""
        self._targets = targets
        self._long_chunk = long_chunk
        self.step_time = StepTime()

    def limit(
        self, room: PromptRoom, num_decodes: int, num_pairs: int, chunks: Iterable[Chunk], now: float
    ) -> None:
        """Set the limits of time, for a step in which `num_decodes` decode, `num_pairs` of attention.

        `chunks` are the prompts, empty ones, in the order in which they will be computed. They are looked
        at only where there is a target to the first token that can be helped.
        """
        if self._long_chunk:
            room.longest_chunk = self._long_chunk
        if not num_decodes:
            return
        seconds = self.step_time.seconds(num_decodes, num_pairs) if self.step_time.known else 0.0
        if self._targets.itl is not None:
            room.seconds = max(_MARGIN * self._targets.itl - seconds, _LEAST_TIME * seconds)
        elif not self._long_chunk:
            room.long_seconds = LONG_PROMPT_TIME * seconds
            if self._targets.ttft is not None and seconds:
                share = self._share(chunks, self._targets.ttft, now)
                hurried = seconds * share / (1.0 - share) if share < 1.0 else math.inf
                room.long_seconds = max(room.long_seconds, hurried)

    def allows(self, num_running: int, num_pairs: int) -> bool:
        """Whether that many sequences, with `num_pairs` pairs of attention, can decode within the target.

        If not even one could, fewer would not help.
        """
        if self._targets.itl is None or not self.step_time.known:
            return True
        seconds, most = self.step_time.seconds, _MARGIN * self._targets.itl
        return seconds(num_running, num_pairs) <= most or seconds(1, num_pairs // num_running) > most

    def _share(self, chunks: Iterable[Chunk], ttft: float, now: float) -> float:
        """The share of all time that prompts need to be in time; one that is late delays the others only."""
        work = share = 0.0
        for chunk in chunks:
            work += self.step_time.prompt_seconds(chunk.num_left, chunk.context)
            left = chunk.sequence.arrival_time + ttft - now
            if left > 0.0:
                share = max(share, work / (_TTFT_MARGIN * left))
        return share
