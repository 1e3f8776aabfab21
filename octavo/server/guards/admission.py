"""Admission control: a request that could not be served in time is refused at once, with when to come back.

Decided where the requests come in, from what is known there: the prompts that have no first token yet, and
how fast first tokens have come while there were any.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from octavo.request_options import NO_OPTIONS, RequestOptions
from octavo.server.errors import APIError

_MEMORY_SECONDS = 30.0
"""The service rate is that of about the last half minute in which something was waiting."""
_FEWEST = 4
"""First tokens to have seen before the rate is trusted."""


class ServiceRate:
    """Prompt tokens a second, measured while prompts wait: what is computed when there is enough to do."""

    def __init__(self) -> None:
        self._tokens = 0.0
        self._seconds = 0.0
        self._count = 0

    def wait(self, seconds: float) -> None:
        """Prompts have waited for that long."""
        kept = math.exp(-seconds / _MEMORY_SECONDS)
        self._tokens *= kept
        self._seconds = self._seconds * kept + seconds

    def serve(self, num_tokens: int) -> None:
        """A prompt of that many tokens has its first token."""
        self._tokens += num_tokens
        self._count += 1

    @property
    def tokens_per_second(self) -> float | None:
        """The rate, None while too little was measured."""
        if self._count < _FEWEST or not self._tokens or not self._seconds:
            return None
        return self._tokens / self._seconds


@dataclass(slots=True, eq=False)
class Ticket:
    """A prompt that was let in. `started` and `leave` may be called more than once."""

    admission: Admission
    num_tokens: int
    options: RequestOptions

    def started(self) -> None:
        """The first token is there."""
        self.admission.remove(self, served=True)

    def leave(self) -> None:
        """The prompt is over, with or without a token."""
        self.admission.remove(self, served=False)


class Admission:
    """The prompts that wait for their first token, and whether there may be more.

    `target_ttft` (seconds) refuses a request whose prompts, with those before them, would take longer at
    the measured rate; `most_waiting` one that comes when so many wait already. Before it are, by
    `policy`, all that wait (fcfs), those with no higher priority number, or of each other user no more
    than of its own (fair). One that finds nobody waiting is let in whatever its length: refused, it would
    fare no better later.
    """

    def __init__(
        self,
        target_ttft: float | None = None,
        most_waiting: int | None = None,
        policy: str = "fcfs",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.rate = ServiceRate()
        self._target_ttft = target_ttft
        self._most_waiting = most_waiting
        self._policy = policy
        self._clock = clock
        self._waiting: dict[Ticket, None] = {}
        self._time = 0.0

    @property
    def num_waiting(self) -> int:
        """Prompts that wait for their first token."""
        return len(self._waiting)

    def enter(self, prompt_tokens: Sequence[int], options: RequestOptions = NO_OPTIONS) -> list[Ticket]:
        """Tickets for the prompts of a request, from their lengths.

        Raises APIError 429, with Retry-After, when the request is refused.
        """
        self._advance()
        rate, total = self.rate.tokens_per_second, sum(prompt_tokens)
        if self._most_waiting is not None and len(self._waiting) >= self._most_waiting:
            waiting = sum(ticket.num_tokens for ticket in self._waiting)
            seconds = waiting / len(self._waiting) / rate if rate else 1.0
            raise _refusal(
                f"{len(self._waiting)} prompts wait for their first token already (--max-waiting)", seconds
            )
        if self._target_ttft is not None and rate is not None and self._waiting:
            seconds = (self._before(total, options) + total) / rate
            if seconds > self._target_ttft:
                raise _refusal(
                    f"the first token would take about {seconds:.1f} s, over this server's target of "
                    f"{self._target_ttft:g} s (--target-ttft)",
                    seconds - self._target_ttft,
                )
        tickets = [Ticket(self, count, options) for count in prompt_tokens]
        self._waiting.update(dict.fromkeys(tickets))
        return tickets

    def remove(self, ticket: Ticket, *, served: bool) -> None:
        """A ticket's prompt does not wait any more; does nothing for one that did not."""
        if ticket in self._waiting:
            self._advance()
            del self._waiting[ticket]
            if served:
                self.rate.serve(ticket.num_tokens)

    def _advance(self) -> None:
        now = self._clock()
        if self._waiting:
            self.rate.wait(now - self._time)
        self._time = now

    def _before(self, num_tokens: int, options: RequestOptions) -> float:
        """Tokens that will be computed before a request's own."""
        if self._policy == "priority":
            return sum(each.num_tokens for each in self._waiting if each.options.priority <= options.priority)
        if self._policy == "fcfs":
            return sum(each.num_tokens for each in self._waiting)
        backlog: dict[str, int] = {options.user: 0}
        for each in self._waiting:
            backlog[each.options.user] = backlog.get(each.options.user, 0) + each.num_tokens
        own = backlog.pop(options.user)
        return own + sum(min(other, own + num_tokens) for other in backlog.values())


def _refusal(message: str, seconds: float) -> APIError:
    retry_after = max(1, math.ceil(seconds))
    return APIError(
        429, f"{message}; try again in {retry_after} s", headers={"Retry-After": str(retry_after)}
    )
