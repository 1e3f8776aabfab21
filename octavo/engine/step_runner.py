"""Runs a batch that is built, and hands each sequence what it gave. Nothing here decides what runs."""

from __future__ import annotations

import time
from dataclasses import dataclass

from octavo.engine.batch_builder import BuiltBatch
from octavo.runtime.backend import Executable
from octavo.sampling.output_rows import StepTokens


@dataclass(frozen=True, slots=True)
class StepResult:
    """The tokens of a batch, and the seconds from the batch to the tokens."""

    tokens: StepTokens
    seconds: float


class StepRunner:
    """One batch at a time, in whatever thread."""

    def __init__(self, executable: Executable) -> None:
        self._executable = executable

    def run(self, built: BuiltBatch) -> StepResult:
        """Compute a batch. The sequences' sampling states know their new tokens afterwards."""
        started = time.perf_counter()
        for sequence in built.sampling:
            if sequence.matcher is not None:
                sequence.sampling.restrict(sequence.matcher.mask())
        for drafts in built.rows.drafts:
            matcher = built.sampling[drafts.state].matcher
            if matcher is not None:
                # Past what the grammar allows no draft can come true.
                drafts.masks = matcher.masks_along(drafts.token_ids)
                del drafts.token_ids[len(drafts.masks) :]
        tokens = self._executable.step(built.batch, built.rows)
        for sequence, logprobs in zip(built.scored, tokens.prompt_logprobs, strict=True):
            sequence.prompt_logprobs += logprobs
        return StepResult(tokens, time.perf_counter() - started)
