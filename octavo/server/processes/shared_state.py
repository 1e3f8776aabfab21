"""The parent's side of `LinkedState`: what all API processes share, and who of them holds what."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass, field

from octavo.frontend.shared_engine import SharedEngine
from octavo.observe.api_processes import ApiProcesses
from octavo.observe.live_feed import FeedFullError
from octavo.server.config import ServerConfig
from octavo.server.errors import APIError
from octavo.server.guards.admission import Ticket
from octavo.server.processes.linked_state import replay
from octavo.server.processes.messages import (
    Admit,
    Answer,
    Ask,
    Event,
    FindResponse,
    ForgetResponse,
    FromParent,
    KeepResponse,
    MetricsText,
    OpenRequests,
    Question,
    Refused,
    Report,
    ToParent,
    Unwatch,
    Value,
    WaitsNoLonger,
    Watch,
)
from octavo.server.response_store import ResponseStore
from octavo.server.state import Observed, make_admission


@dataclass(slots=True)
class _Holdings:
    """What goes when an API process does."""

    num_open: int = 0
    tickets: dict[tuple[int, int], Ticket] = field(default_factory=dict)
    watches: dict[int, asyncio.Task[None]] = field(default_factory=dict)


class SharedState:
    """Takes what API processes say and ask; `send` reaches them by name."""

    def __init__(
        self,
        engine: SharedEngine,
        config: ServerConfig,
        model_names: list[str],
        api: ApiProcesses,
        send: Callable[[str, FromParent], None],
    ) -> None:
        self.observed = Observed(engine, config, model_names, api)
        self._send = send
        self._admission = make_admission(engine, config)
        self._responses = ResponseStore(config.max_stored_responses)
        self._held: dict[str, _Holdings] = {}

    def take(self, name: str, message: ToParent) -> None:
        """Do what the API process of that name wants."""
        held = self._held.setdefault(name, _Holdings())
        match message:
            case Report(num_open, records):
                held.num_open = num_open
                replay(records, self.observed.metrics)
            case Ask(number, question):
                self._send(name, Answer(number, self._answer(held, number, question)))
            case WaitsNoLonger(number, index, served):
                ticket = held.tickets.pop((number, index), None)
                if ticket is not None:
                    ticket.started() if served else ticket.leave()
            case Watch(number):
                held.watches[number] = asyncio.create_task(self._watch(name, number))
            case Unwatch(number):
                if number in held.watches:
                    held.watches.pop(number).cancel()

    def forget(self, name: str) -> None:
        """That API process is gone."""
        held = self._held.pop(name, _Holdings())
        for ticket in held.tickets.values():
            ticket.leave()
        for watch in held.watches.values():
            watch.cancel()

    def close(self) -> None:
        """End all that goes on."""
        self.observed.feed.close()
        for name in list(self._held):
            self.forget(name)

    def _answer(self, held: _Holdings, number: int, question: Question) -> Value:
        match question:
            case MetricsText():
                return self.observed.metrics.render()
            case OpenRequests():
                return sum(each.num_open for each in self._held.values())
            case Admit(prompt_tokens, options):
                try:
                    tickets = self._admission.enter(prompt_tokens, options)
                except APIError as error:
                    return Refused(error.message, (error.headers or {})["Retry-After"])
                held.tickets |= {(number, index): ticket for index, ticket in enumerate(tickets)}
                return None
            case KeepResponse(owner, response_id, encoded, num_characters):
                self._responses.add(owner, response_id, encoded, num_characters)
                return None
            case FindResponse(owner, response_id):
                return self._responses.get(owner, response_id)
            case ForgetResponse(owner, response_id):
                return self._responses.delete(owner, response_id)

    async def _watch(self, name: str, number: int) -> None:
        full = False
        try:
            async with aclosing(self.observed.feed.watch()) as events:
                async for event in events:
                    self._send(name, Event(number, event))
        except FeedFullError:
            full = True
        self._send(name, Event(number, None, full))
