"""Runs a batch that is built: the model, then the sampler. Nothing here decides what runs."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from octavo.engine.batch_builder import BuiltBatch
from octavo.runtime.backend import Executable
from octavo.sampling.sampler import SampledToken


@dataclass(frozen=True, slots=True)
class StepResult:
    """A token for each of a batch's `sampling` sequences, and the seconds from the batch to the tokens."""

    sampled: list[SampledToken]
    seconds: float
    stops: bool
    """Whether a token is one that ends its sequence."""


class StepRunner:
    """One batch at a time, in whatever thread."""

    def __init__(self, executable: Executable) -> None:
        self._executable = executable

    def run(self, built: BuiltBatch) -> StepResult:
        """Compute a batch. The sequences' sampling states know their new token afterwards."""
        started = time.perf_counter()
        logits = self._executable.run(built.batch)
        sampler = self._executable.sampler
        for rows in built.prompt_rows:
            sequence, known = rows.sequence, rows.sequence.prompt_logprobs
            token_ids = np.array(sequence.token_ids[len(known) : len(known) + rows.count])
            assert sequence.num_prompt_logprobs is not None
            known += sampler.prompt_logprobs(
                logits[rows.start : rows.start + rows.count], token_ids, sequence.num_prompt_logprobs
            )
        if built.sampling_rows is not None:
            logits = logits[built.sampling_rows]
        for sequence in built.sampling:
            if sequence.matcher is not None:
                sequence.sampling.restrict(sequence.matcher.mask())
        sampled = sampler.sample(logits, [sequence.sampling for sequence in built.sampling])
        stops = False
        for sequence, token in zip(built.sampling, sampled, strict=True):
            sequence.sampling.append(token.token_id)
            stops = stops or sequence.stops_at(token.token_id)
        return StepResult(sampled, time.perf_counter() - started, stops)
