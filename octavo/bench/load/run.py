"""Loading a server with conversations at their times."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass

from octavo.bench.dataset.conversation import Conversation
from octavo.bench.load.arrivals import arrival_times
from octavo.bench.load.config import LoadConfig
from octavo.bench.load.http_stream import RequestError
from octavo.bench.load.openai_api import OpenAIServer
from octavo.bench.load.outcome import Outcome

_AGAIN_SECONDS = 0.2
_NOT_READY = (0, 429, 502, 503, 504)


@dataclass(slots=True)
class LoadRun:
    """All outcomes, in the order of the conversations, and the seconds that they took in all."""

    outcomes: list[Outcome]
    seconds: float


async def run_load(
    server: OpenAIServer,
    conversations: list[Conversation],
    config: LoadConfig,
    done: Callable[[Outcome], object],
) -> LoadRun:
    """Send each conversation at its time, at most `max_concurrency` at once; failures are outcomes too."""
    if config.max_concurrency is None:
        limit: contextlib.AbstractAsyncContextManager[object] = contextlib.nullcontext()
    else:
        limit = asyncio.Semaphore(config.max_concurrency)
    times = arrival_times(len(conversations), config.request_rate, config.burstiness, config.seed)
    began = time.perf_counter()

    async def send(conversation: Conversation, at: float) -> list[Outcome]:
        # Later than `at` where the loop was busy; the time between is never made up for by hurrying.
        await asyncio.sleep(max(0.0, began + at - time.perf_counter()))
        async with limit:
            outcomes = await server.converse(conversation, began)
        for outcome in outcomes:
            done(outcome)
        return outcomes

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(send(each, at)) for each, at in zip(conversations, times, strict=True)]
    seconds = time.perf_counter() - began
    return LoadRun([outcome for task in tasks for outcome in task.result()], seconds)


async def wait_until_ready(
    server: OpenAIServer,
    conversation: Conversation,
    timeout: float,
    waiting: Callable[[str], object] = lambda _: None,
) -> None:
    """Ask until the server answers; `waiting` is told once why that takes time.

    Raises ValueError when it does not answer in time, or refuses the request.
    """
    deadline = time.monotonic() + timeout
    told = False
    while True:
        try:
            await server.find_model()
            if not timeout:
                return
            [outcome, *_] = await server.converse(Conversation(conversation.turns[:1]), time.perf_counter())
            if outcome.ok:
                return
            reason, final = outcome.error, outcome.error.startswith("HTTP 4")
        except RequestError as error:
            reason, final = str(error), error.status not in _NOT_READY
        if final or time.monotonic() >= deadline:
            raise ValueError(f"the first request failed: {reason}")
        if not told:
            waiting(reason)
            told = True
        await asyncio.sleep(_AGAIN_SECONDS)
