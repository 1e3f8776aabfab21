"""Which request kills the engine: after repeated crashes the suspects run one at a time.

A request whose kernel or sampler crashes the engine process would crash every one that replaces it. Who
was in the batch is not enough to tell, so innocent requests would die with it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

from octavo.frontend.request_state import RequestState

MAX_CRASHES = 2
"""Crashes without a token between them that make a request a suspect."""


class Suspects:
    """Open requests that were there in `MAX_CRASHES` crashes in a row; getting a token clears one."""

    def __init__(self) -> None:
        self._waiting: deque[RequestState] = deque()
        self._on_trial: RequestState | None = None

    def crash(self, states: Iterable[RequestState]) -> RequestState | None:
        """Count a crash for the open requests; returns the one that is guilty, as it ran on trial."""
        guilty = None if self._cleared() else self._on_trial
        for state in states:
            state.num_crashes += 1
        return guilty

    def restart(self, states: Iterable[RequestState]) -> list[RequestState]:
        """The requests that a new engine may run at once; the others wait for `next`."""
        innocent: list[RequestState] = []
        self._waiting.clear()
        self._on_trial = None
        for state in states:
            (self._waiting if state.num_crashes >= MAX_CRASHES else innocent).append(state)
        return innocent

    def next(self) -> RequestState | None:
        """The suspect that may run now: the next one, once the one on trial is cleared."""
        if not self._cleared():
            return None
        self._on_trial = None
        while self._waiting:
            state = self._waiting.popleft()
            if not state.finished:
                self._on_trial = state
                return state
        return None

    @property
    def pending(self) -> bool:
        """Whether one is on trial or waits for it."""
        return bool(self._waiting) or not self._cleared()

    def _cleared(self) -> bool:
        state = self._on_trial
        return state is None or state.finished or state.num_crashes == 0


class TrialTurns:
    """Which of several processes that share an engine may run its suspects: two at once would tell nothing.

    They are served in the order in which they ask; a new engine begins with none.
    """

    def __init__(self, grant: Callable[[str], None]) -> None:
        """`grant` tells a process of that name that it is its turn."""
        self._grant = grant
        self._names: deque[str] = deque()
        """The first one has its turn."""

    def ask(self, name: str) -> None:
        """A process has suspects."""
        if name not in self._names:
            self._names.append(name)
            if len(self._names) == 1:
                self._grant(name)

    def give_back(self, name: str) -> None:
        """A process has no more of them, or is gone."""
        if name in self._names:
            had_turn = self._names[0] == name
            self._names.remove(name)
            if had_turn and self._names:
                self._grant(self._names[0])

    def clear(self) -> None:
        """The engine died: who still has suspects asks again."""
        self._names.clear()
