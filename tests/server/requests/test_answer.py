"""Whatever the engine gives: events in their order, counted, and the same answer whole or in parts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from octavo.outputs import CompletionOutput, RequestOutput
from octavo.request_options import NO_OPTIONS
from octavo.sampling_params import SamplingParams
from octavo.server.requests.answer import Answer, Begin, End, Event, Text
from octavo.server.requests.generation import Generation
from octavo.server.requests.prompts import Prompt

NUM_PROMPTS, NUM_CHOICES = 2, 2

Piece = tuple[int, int, str, int]
"""Prompt, choice, text, number of tokens."""


class Ticket:
    def __init__(self) -> None:
        self.left = False

    def started(self) -> None:
        pass

    def leave(self) -> None:
        self.left = True


@dataclass
class Scripted(Generation):
    """Gives outputs that were written down."""

    script: list[list[Piece]] = field(default_factory=list)

    async def run(
        self, serving: Any, index: int, ticket: Any
    ) -> AsyncGenerator[tuple[int, RequestOutput], None]:
        pieces = [[piece for piece in step if piece[0] == index] for step in self.script]
        last: dict[int, int] = {}
        for number, step in enumerate(pieces):
            last |= {choice: number for _, choice, *_ in step}
        for number, step in enumerate(pieces):
            outputs = [
                CompletionOutput(
                    choice, text, [7] * count, finish_reason="stop" if last[choice] == number else None
                )
                for _, choice, text, count in step
            ]
            if outputs:
                yield index, RequestOutput("r", None, [1, 2], outputs, False, num_cached_tokens=1)


class Serving:
    """What an answer needs of the server."""

    def __init__(self) -> None:
        self.tickets: list[Ticket] = []
        self.config = self.state = self
        self.enable_log_requests = False

    async def admit(self, lengths: list[int], options: Any) -> list[Ticket]:
        self.tickets = [Ticket() for _ in lengths]
        return self.tickets


def answer(script: list[list[Piece]], serving: Serving) -> Answer:
    prompts = [Prompt([1, 2], None) for _ in range(NUM_PROMPTS)]
    params = [SamplingParams(n=NUM_CHOICES, seed=1)] * NUM_PROMPTS
    generation = Scripted("id", "model", prompts, params, NO_OPTIONS, script=script)
    return Answer(serving, generation)  # type: ignore[arg-type]


async def events_of(asked: Answer) -> list[Event]:
    return [event async for batch in asked.events() for event in batch]


def steps() -> st.SearchStrategy[list[list[Piece]]]:
    """Steps, in each of which a choice gets at most one piece."""
    piece = st.tuples(
        st.integers(0, NUM_PROMPTS - 1),
        st.integers(0, NUM_CHOICES - 1),
        st.text("ab", max_size=3),
        st.integers(0, 3),
    )
    return st.lists(st.lists(piece, max_size=4, unique_by=lambda each: each[:2]), max_size=8)


@given(steps())
def test_each_choice_begins_goes_on_and_ends(script: list[list[Piece]]) -> None:
    serving = Serving()
    asked = answer(script, serving)
    events = asyncio.run(events_of(asked))
    given = {piece[0] * NUM_CHOICES + piece[1] for step in script for piece in step}
    assert {event.choice for event in events} == given
    for choice in given:
        own = [event for event in events if event.choice == choice]
        assert isinstance(own[0], Begin)
        assert isinstance(own[-1], End)
        assert len(own) > 2
        assert all(isinstance(event, Text) for event in own[1:-1])
        assert events[events.index(own[-1]) - 1] is own[-2]  # So that an API may write both as one.
    pieces = [piece for step in script for piece in step]
    assert asked.usage.prompt_tokens == 2 * NUM_PROMPTS
    assert asked.usage.completion_tokens == sum(piece[3] for piece in pieces)
    assert asked.usage.cached_tokens == len({piece[0] for piece in pieces})
    assert all(ticket.left for ticket in serving.tickets)


@given(steps())
def test_the_whole_is_its_parts(script: list[list[Piece]]) -> None:
    events = asyncio.run(events_of(answer(script, Serving())))
    whole = asyncio.run(answer(script, Serving()).choices())
    assert [choice.end.choice for choice in whole] == sorted({event.choice for event in events})
    for choice in whole:
        texts = [event for event in events if isinstance(event, Text) and event.choice == choice.end.choice]
        assert choice.text.text == "".join(text.text for text in texts)
        assert choice.text.token_ids == [token for text in texts for token in text.token_ids]


def test_leaving_early_gives_the_tickets_back() -> None:
    async def leave() -> Serving:
        serving = Serving()
        events = answer([[(0, 0, "a", 1)], [(0, 0, "b", 1)]], serving).events()
        await anext(events)
        await events.aclose()
        return serving

    assert all(ticket.left for ticket in asyncio.run(leave()).tickets)
