"""Plans the next step while one runs, so that little but sampling is left between two runs of the model.

The engine's thread plans, and turns tokens into outputs; another one runs batches and samples, one after the
other. A batch that is planned ahead lacks only its token ids, which the thread that runs it fills in from the
step before.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from octavo.engine.batch_builder import BatchBuilder, BuiltBatch
from octavo.engine.kv.block_pool import BlockPool
from octavo.engine.scheduling.scheduler import Scheduler, Step
from octavo.engine.step_runner import StepResult, StepRunner

_NOT_YET = 0
"""Stands for a token that is being sampled, whose place in its sequence is known."""


@dataclass(slots=True)
class Flight:
    """A step that runs in the other thread, or is about to."""

    step: Step
    built: BuiltBatch
    future: Future[tuple[StepResult, bool] | None]
    """Its result, and whether a token is one that ends its sequence; None if it was dropped."""

    def result(self) -> tuple[StepResult, bool]:
        """Wait for the tokens. Raises what the run raised."""
        result = self.future.result()
        assert result is not None
        return result


class StepAhead:
    """At most one step that runs, and the one after it.

    When the engine removes a sequence that is in the step that runs, its row is computed for nothing. Its
    blocks may be given away at once: whatever uses them next runs later.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        pool: BlockPool,
        batches: BatchBuilder,
        runner: StepRunner,
        num_groups: int,
    ) -> None:
        self._scheduler = scheduler
        self._pool = pool
        self._batches = batches
        self._runner = runner
        self._num_groups = num_groups
        # Ends when this object does; takes jobs in order.
        self._thread = ThreadPoolExecutor(1, "octavo-step")
        self._next: Flight | None = None

    def take(self) -> Flight | None:
        """The step that was planned ahead and runs now, if one does."""
        flight, self._next = self._next, None
        return flight

    def start(self, step: Step, built: BuiltBatch) -> Flight:
        """Run a step in the other thread."""
        return Flight(step, built, self._thread.submit(self._run, None, built))

    def next_is_known(self, built: BuiltBatch) -> bool:
        """Whether the step after the one of this batch is known but for its tokens.

        So it is when every sequence runs, gets one token in this step, can not end by its length, needs none
        of its tokens to know which may come next, and has a block for one more whatever the others take.
        """
        sequences, scheduler = built.sampling, self._scheduler
        return (
            len(sequences) == len(scheduler.running)
            and not scheduler.num_waiting
            and self._pool.num_free >= len(sequences) * self._num_groups
            and all(
                len(sequence.token_ids) + 1 < sequence.max_length
                and sequence.matcher is None
                and not sequence.drafts
                for sequence in sequences
            )
        )

    def finish(self, flight: Flight) -> StepResult:
        """Plan what follows a step whose next is known, and wait for its tokens.

        The next one runs as soon as they are there, unless one of them ends its sequence: then the plan is
        dropped, which has only taken blocks early.
        """
        self._scheduler.update(flight.step)
        for sequence in flight.built.sampling:
            sequence.token_ids.append(_NOT_YET)
        step = self._scheduler.schedule()
        built = self._batches.build(step)
        following = Flight(step, built, self._thread.submit(self._run, flight, built))
        for sequence in flight.built.sampling:
            sequence.token_ids.pop()
        result, stops = flight.result()
        if not stops:
            self._next = following
        return result

    def close(self) -> None:
        """Wait for what runs; nothing runs after that."""
        self._thread.shutdown()

    def _run(self, before: Flight | None, built: BuiltBatch) -> tuple[StepResult, bool] | None:
        """In the other thread, which has run `before`, the step that this one was planned ahead of."""
        if before is not None:
            known, stops = before.result()
            if stops:
                return None
            tokens = zip(before.built.sampling, known.tokens.sampled, strict=True)
            token_ids = {sequence: token.token_id for sequence, token in tokens}
            built.batch.token_ids[:] = [token_ids[sequence] for sequence in built.sampling]
        result = self._runner.run(built)
        tokens = zip(built.sampling, result.tokens.sampled, strict=True)
        return result, any(sequence.stops_at(token.token_id) for sequence, token in tokens)
