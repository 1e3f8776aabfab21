"""Runs a batch that is built, and hands each sequence what it gave. Nothing here decides what runs."""

from __future__ import annotations

import time
from dataclasses import dataclass

from octavo.engine.batch_builder import BuiltBatch
from octavo.runtime.backend import Executable
from octavo.sampling.sampler import SampledToken


@dataclass(frozen=True, slots=True)
class StepResult:
    """A token for each of a batch's `sampling` sequences, and the seconds from the batch to the tokens."""

    sampled: list[SampledToken]
    seconds: float


class StepRunner:
    """One batch at a time, in whatever thread."""

    def __init__(self, executable: Executable) -> None:
        self._executable = executable

    def run(self, built: BuiltBatch) -> StepResult:
        """Compute a batch. The sequences' sampling states know their new token afterwards."""
        started = time.perf_counter()
        for sequence in built.sampling:
            if sequence.matcher is not None:
                sequence.sampling.restrict(sequence.matcher.mask())
        tokens = self._executable.step(built.batch, built.rows)
        for sequence, logprobs in zip(built.scored, tokens.prompt_logprobs, strict=True):
            sequence.prompt_logprobs += logprobs
        return StepResult(tokens.sampled, time.perf_counter() - started)
