"""Stop strings: found across token borders, and never streamed in part.

An Aho-Corasick automaton (Aho and Corasick, 1975) over characters. The depth of its state is the length of
the longest suffix of the text that begins a stop string. Exactly that suffix must be held back. A character
costs O(1) whatever the number of stop strings, and how the text is cut into tokens does not matter.
"""

from __future__ import annotations

from functools import lru_cache


class StopAutomaton:
    """The automaton of a set of stop strings; state 0 is the root."""

    __slots__ = ("depth", "fail", "first", "goto", "match")

    def __init__(self, stops: tuple[str, ...]) -> None:
        self.goto: list[dict[str, int]] = [{}]
        self.fail = [0]
        self.depth = [0]
        self.match = [0]
        """Length of the longest stop string that ends in this state, 0 if none does."""
        self.first = frozenset(stop[0] for stop in stops)
        for stop in stops:
            self._insert(stop)
        self._link()

    def step(self, state: int, character: str) -> int:
        """The state after `character`."""
        while True:
            target = self.goto[state].get(character)
            if target is not None:
                return target
            if state == 0:
                return 0
            state = self.fail[state]

    def _insert(self, stop: str) -> None:
        state = 0
        for character in stop:
            target = self.goto[state].get(character)
            if target is None:
                target = len(self.goto)
                self.goto[state][character] = target
                self.goto.append({})
                self.fail.append(0)
                self.depth.append(self.depth[state] + 1)
                self.match.append(0)
            state = target
        self.match[state] = len(stop)

    def _link(self) -> None:
        """Set the failure links breadth first, so that a state's link is ready before its children's."""
        queue = list(self.goto[0].values())
        for state in queue:
            for character, target in self.goto[state].items():
                self.fail[target] = self.step(self.fail[state], character)
                queue.append(target)
            self.match[state] = self.match[state] or self.match[self.fail[state]]


@lru_cache(maxsize=64)
def stop_automaton(stops: tuple[str, ...]) -> StopAutomaton:
    """The automaton of `stops`, shared by the requests that have the same ones."""
    return StopAutomaton(stops)


class StopStrings:
    """The search for stop strings in one growing text."""

    __slots__ = ("_automaton", "_held", "_include", "_state")

    def __init__(self, stops: list[str], include_stop_str_in_output: bool) -> None:
        self._automaton = stop_automaton(tuple(stops))
        self._include = include_stop_str_in_output
        self._state = 0
        self._held = ""

    def push(self, text: str, search: bool = True) -> tuple[str, str | None]:
        """Add `text`; returns what may be shown now, and the stop string that was found or None.

        The stop string whose last character comes first wins, the longest of those that end there. The
        rest of `text` is dropped with it. Without `search` nothing is found that ends inside `text`, but
        its end may still begin a stop string.
        """
        automaton = self._automaton
        if not self._state and automaton.first.isdisjoint(text):
            return text, None
        state = self._state
        for position, character in enumerate(text):
            state = automaton.step(state, character)
            if search and automaton.match[state]:
                seen = self._held + text[: position + 1]
                start = len(seen) - automaton.match[state]
                self._state, self._held = 0, ""
                return (seen if self._include else seen[:start]), seen[start:]
        seen = self._held + text
        border = len(seen) - automaton.depth[state]
        self._state, self._held = state, seen[border:]
        return seen[:border], None

    def flush(self) -> str:
        """The text that was held back, for when no more comes."""
        held, self._state, self._held = self._held, 0, ""
        return held
