"""Scheduling policies: who is served next, and who gives way when room is short."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator, Mapping
from operator import attrgetter
from typing import Protocol

from octavo.engine.sequence import Sequence

_order = attrgetter("order")


class Policy(Protocol):
    """The sequences that wait and those that run, and the order of both.

    Iterating gives the waiting ones, the one to be served next first. Of `running`, once arranged, the
    last is the first to give way.
    """

    running: list[Sequence]

    @property
    def num_waiting(self) -> int:
        """How many sequences wait."""
        ...

    def __iter__(self) -> Iterator[Sequence]:
        """The waiting sequences in the order in which they will be served."""
        ...

    def arrive(self, sequence: Sequence) -> None:
        """Queue a new sequence."""
        ...

    def admit(self, sequence: Sequence, num_tokens: int) -> None:
        """A waiting sequence runs from now on; `num_tokens` of it are to be computed for the first time."""
        ...

    def preempt(self, sequence: Sequence) -> None:
        """A running sequence waits again, at its old place."""
        ...

    def remove(self, sequence: Sequence, *, runs: bool) -> None:
        """A sequence that runs, or waits, has ended."""
        ...

    def arrange(self) -> None:
        """Sort the running sequences."""
        ...

    def yields(self, running: Sequence, waiting: Sequence) -> bool:
        """Whether a running sequence gives way to a waiting one that there is no room for."""
        ...

    def computed(self, sequences: list[Sequence], accepted: Mapping[Sequence, int]) -> None:
        """A step computed tokens of these sequences; those that are complete now get their next one.

        `accepted` is how many drafts of some came true: they got as many tokens more.
        """
        ...


class InOrder:
    """Policies whose order is known at arrival: first come first served, and priority.

    By priority, lower goes first and arrival decides between equals (vLLM's meaning). With `aging` a
    sequence of priority p takes its turn as if it had arrived p times `aging` seconds later: it is
    overtaken by no more than what arrives in that time, so that nothing waits for ever. Whatever its turn,
    a running sequence gives way only to one whose priority is lower than its own.
    """

    def __init__(self, *, by_priority: bool, aging: float = 0.0) -> None:
        """`aging` is in seconds for a step of priority; 0 is strict priority."""
        self.running: list[Sequence] = []
        self._waiting: list[Sequence] = []
        self._by_priority = by_priority
        self._aging = aging

    @property
    def num_waiting(self) -> int:
        """How many sequences wait."""
        return len(self._waiting)

    def __iter__(self) -> Iterator[Sequence]:
        return iter(self._waiting)

    def arrive(self, sequence: Sequence) -> None:
        """Fixes the order of a sequence, and queues it."""
        priority, arrival, number = sequence.order
        if not self._by_priority:
            priority = 0
        elif self._aging:
            priority, arrival = 0, arrival + priority * self._aging
        sequence.order = (priority, arrival, number)
        insort(self._waiting, sequence, key=_order)

    def admit(self, sequence: Sequence, num_tokens: int) -> None:
        """To its place among the running ones."""
        _take(self._waiting, sequence)
        insort(self.running, sequence, key=_order)

    def preempt(self, sequence: Sequence) -> None:
        """Back to its place among the waiting ones."""
        _take(self.running, sequence)
        insort(self._waiting, sequence, key=_order)

    def remove(self, sequence: Sequence, *, runs: bool) -> None:
        """Leaves nothing behind."""
        _take(self.running if runs else self._waiting, sequence)

    def arrange(self) -> None:
        """They are in order at all times."""

    def yields(self, running: Sequence, waiting: Sequence) -> bool:
        """Only to a lower priority whose turn it is."""
        if not self._by_priority or running.order < waiting.order:
            return False
        return running.options.priority > waiting.options.priority

    def computed(self, sequences: list[Sequence], accepted: Mapping[Sequence, int]) -> None:
        """What was computed does not change anyone's turn."""


def _take(queue: list[Sequence], sequence: Sequence) -> None:
    del queue[bisect_left(queue, sequence.order, key=_order)]
