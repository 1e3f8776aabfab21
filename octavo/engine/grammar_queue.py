"""Sequences that wait for their grammar: while it compiles, steps go on without them."""

from __future__ import annotations

import logging
from concurrent.futures import FIRST_COMPLETED, Future, wait

from octavo.engine.messages import AddRequest
from octavo.engine.sequence import Sequence
from octavo.structured.compiler import GrammarCompiler
from octavo.structured.matcher import Matcher

_log = logging.getLogger(__name__)


class GrammarQueue:
    """In front of the scheduler's queue, where each has the place that its arrival gives it."""

    def __init__(self, grammars: GrammarCompiler) -> None:
        self._grammars = grammars
        self._waiting: dict[Sequence, Future[Matcher]] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, sequence: Sequence, request: AddRequest) -> None:
        """Begin to compile the grammar of a request."""
        structured_outputs = request.params.structured_outputs
        assert structured_outputs is not None
        self._waiting[sequence] = self._grammars.submit(structured_outputs, request.output_token_ids)

    def discard(self, sequence: Sequence) -> bool:
        """Let go of a sequence that is aborted; False if it does not wait here."""
        future = self._waiting.pop(sequence, None)
        if future is not None:
            future.cancel()
        return future is not None

    def take_ready(self) -> tuple[list[Sequence], list[Sequence]]:
        """Those that have their matcher now, and those that can not run; they wait no longer."""
        ready, failed = [], []
        for sequence in [each for each, future in self._waiting.items() if future.done()]:
            try:
                sequence.matcher = self._waiting.pop(sequence).result()
            except ValueError as error:
                _log.warning("request %s can not run: %s", sequence.request_id, error)
                failed.append(sequence)
            else:
                ready.append(sequence)
        return ready, failed

    def wait(self, seconds: float) -> None:
        """Until one is ready, at most so long."""
        wait(self._waiting.values(), seconds, FIRST_COMPLETED)
