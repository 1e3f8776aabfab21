"""The server's state as one of several API processes sees it: the parent has it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence

from octavo.observe.live_feed import FeedFullError
from octavo.observe.request_series import RequestSeries, RequestValue
from octavo.request_options import RequestOptions
from octavo.server.errors import APIError
from octavo.server.guards.drain import Drain
from octavo.server.processes.link import Link
from octavo.server.processes.messages import (
    Admit,
    Event,
    FindResponse,
    ForgetResponse,
    KeepResponse,
    MetricsText,
    OpenRequests,
    Record,
    Refused,
    Report,
    Unwatch,
    WaitsNoLonger,
    Watch,
)
from octavo.server.state import Ticket

REPORT_SECONDS = 0.1
_METHODS = frozenset({"observe", "finished", "failed", "prompt_began"})


class RecordedSeries:
    """A `RequestSeries` that writes down what it is told, for another process to `replay`."""

    def __init__(self) -> None:
        self._records: list[Record] = []

    def observe(self, value: RequestValue, amount: float) -> None:
        self._records.append(Record("observe", [value, amount]))

    def finished(self, reason: str) -> None:
        self._records.append(Record("finished", [reason]))

    def failed(self, num_choices: int) -> None:
        self._records.append(Record("failed", [num_choices]))

    def prompt_began(self, num_tokens: int, num_cached: int) -> None:
        self._records.append(Record("prompt_began", [num_tokens, num_cached]))

    def take(self) -> list[Record]:
        """What was written down since the last time."""
        taken, self._records = self._records, []
        return taken


def replay(records: list[Record], series: RequestSeries) -> None:
    """Tell `series` what was written down."""
    for record in records:
        if record.method in _METHODS:
            getattr(series, record.method)(*record.values)


class RemoteTicket:
    """A prompt that the parent let in."""

    def __init__(self, link: Link, number: int, index: int) -> None:
        self._link: Link | None = link
        self._number = number
        self._index = index

    def started(self) -> None:
        self._tell(served=True)

    def leave(self) -> None:
        self._tell(served=False)

    def _tell(self, *, served: bool) -> None:
        if self._link is not None:
            self._link.send(WaitsNoLonger(self._number, self._index, served))
            self._link = None


class FreeTicket:
    """For a server that lets everything in."""

    def started(self) -> None:
        pass

    def leave(self) -> None:
        pass


class LinkedState:
    """The `ServerState` of one of several API processes."""

    def __init__(self, link: Link, drain: Drain, *, admits_all: bool) -> None:
        """`drain` counts this process's open requests; `admits_all` if no request is ever refused."""
        self.series = RecordedSeries()
        self._link = link
        self._drain = drain
        self._admits_all = admits_all
        self._reported = 0
        self._closed = False

    async def run(self) -> None:
        """Report what happens here, until cancelled."""
        try:
            while True:
                await asyncio.sleep(REPORT_SECONDS)
                self._report()
        finally:
            self._report()

    async def metrics_text(self) -> bytes:
        self._report()
        text = await self._link.ask(MetricsText())
        assert isinstance(text, bytes)
        return text

    async def num_open(self) -> int:
        self._report()
        count = await self._link.ask(OpenRequests())
        assert isinstance(count, int)
        return count

    async def admit(self, prompt_tokens: Sequence[int], options: RequestOptions) -> Sequence[Ticket]:
        if self._admits_all:
            return [FreeTicket()] * len(prompt_tokens)
        number = self._link.next_number()
        tickets = [RemoteTicket(self._link, number, index) for index in range(len(prompt_tokens))]
        try:
            answer = await self._link.ask(Admit(list(prompt_tokens), options), number)
        except asyncio.CancelledError:
            # The parent takes this after the question, whatever it answers.
            for ticket in tickets:
                ticket.leave()
            raise
        if isinstance(answer, Refused):
            raise APIError(429, answer.message, headers={"Retry-After": answer.retry_after})
        return tickets

    async def keep_response(self, owner: str, response_id: str, encoded: bytes, num_characters: int) -> None:
        await self._link.ask(KeepResponse(owner, response_id, encoded, num_characters))

    async def find_response(self, owner: str, response_id: str) -> bytes | None:
        encoded = await self._link.ask(FindResponse(owner, response_id))
        assert isinstance(encoded, bytes | None)
        return encoded

    async def forget_response(self, owner: str, response_id: str) -> bool:
        return bool(await self._link.ask(ForgetResponse(owner, response_id)))

    async def watch(self) -> AsyncGenerator[bytes, None]:
        number = self._link.next_number()
        events = self._link.watches[number] = asyncio.Queue()
        self._link.send(Watch(number))
        try:
            while not self._closed:
                event = await events.get()
                if event.full:
                    raise FeedFullError("the live feed has as many watchers as it may have")
                if event.data is None:
                    return
                yield event.data
        finally:
            del self._link.watches[number]
            self._link.send(Unwatch(number))

    def close(self) -> None:
        self._closed = True
        for number, events in self._link.watches.items():
            events.put_nowait(Event(number, None))

    def _report(self) -> None:
        records, num_open = self.series.take(), self._drain.num_open
        if records or num_open != self._reported:
            self._reported = num_open
            self._link.send(Report(num_open, records))
