"""The live view's feed: the engine's state a few times a second, for as long as somebody watches.

However many watch, the engine is asked once and an event is encoded once. A watcher that reads slowly
misses states, never seconds.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from octavo.engine.messages import EngineState
from octavo.observe.latency_samples import LatencySamples
from octavo.observe.live_events import Down, Event, Hello, Node, Second, State, Tree
from octavo.observe.metrics import Metrics

if TYPE_CHECKING:
    from octavo.frontend.async_engine import AsyncEngine

MAX_WATCHERS = 32
TICK_SECONDS = 0.2
TREE_SECONDS = 1.0
IDLE_SECONDS = 2.0
"""How often an engine that runs no step is asked: blocks can be forgotten without one."""
KEEP_ALIVE_SECONDS = 15.0
NUM_SECONDS = 600

_encode = msgspec.json.Encoder().encode


class _Begun(NamedTuple):
    """When a second began, and the tokens until then."""

    began: float
    generated: int
    prefill: int


class FeedFullError(Exception):
    """The feed has as many watchers as it may have."""


class LiveFeed:
    """Events for watchers; belongs to the event loop of the engine."""

    def __init__(
        self,
        engine: AsyncEngine,
        metrics: Metrics,
        hello: Callable[[list[Second]], Hello],
        *,
        show_text: bool,
    ) -> None:
        """`hello` makes the first event from the seconds so far; `show_text` decodes the prefixes."""
        self._engine = engine
        self._metrics = metrics
        self._hello = hello
        self._show_text = show_text
        self._num_watchers = 0
        self._sampling: asyncio.Task[None] | None = None
        self._closed = False
        self._latest: dict[str, bytes] = {}
        """Of each kind of event the last one that was different from the one before."""
        self._seconds: deque[Second] = deque(maxlen=NUM_SECONDS)
        self._num_seconds = 0
        self._ttft, self._gap = LatencySamples(), LatencySamples()
        self._news = asyncio.Event()

    async def watch(self) -> AsyncGenerator[bytes, None]:
        """Server-sent events until the feed is closed; closing the generator ends the watch.

        Raises FeedFullError at the first step.
        """
        self._begin()
        try:
            seen: dict[str, bytes] = {}
            num_seconds = self._num_seconds
            yield _event(self._hello(list(self._seconds)))
            while not self._closed:
                news = self._news
                for kind, event in list(self._latest.items()):
                    if seen.get(kind) is not event:
                        seen[kind] = event
                        yield event
                missed = min(self._num_seconds - num_seconds, NUM_SECONDS)
                num_seconds = self._num_seconds
                for second in list(self._seconds)[len(self._seconds) - missed :]:
                    yield _event(second)
                try:
                    await asyncio.wait_for(news.wait(), KEEP_ALIVE_SECONDS)
                except TimeoutError:
                    yield b": nothing new\n\n"
        finally:
            self._end()

    def close(self) -> None:
        """End every watch."""
        self._closed = True
        self._tell()

    def _begin(self) -> None:
        if self._num_watchers == MAX_WATCHERS:
            raise FeedFullError(f"{MAX_WATCHERS} watch already")
        self._num_watchers += 1
        if self._sampling is None:
            self._latest.clear()
            metrics = self._metrics
            metrics.ttft.listener, metrics.token_gap.listener = self._ttft.add, self._gap.add
            self._sampling = asyncio.create_task(self._sample())

    def _end(self) -> None:
        self._num_watchers -= 1
        if self._num_watchers == 0 and self._sampling is not None:
            self._sampling.cancel()
            self._sampling = None
            self._metrics.ttft.listener = self._metrics.token_gap.listener = None
            self._ttft.take()
            self._gap.take()

    async def _sample(self) -> None:
        """Ask the engine and sum up the seconds, until cancelled."""
        seen: tuple[object, bool] | None = None
        asked = asked_for_tree = -math.inf
        second = self._new_second()
        while True:
            now = time.monotonic()
            current = self._engine.stats, self._engine.healthy
            if current != seen or now - asked >= IDLE_SECONDS:
                seen, asked = current, now
                with_tree = now - asked_for_tree >= TREE_SECONDS
                state = await self._engine.describe(tree=with_tree, tokens=self._show_text)
                if state is None:
                    self._publish(Down())
                else:
                    self._publish(State.of(state))
                    if with_tree:
                        asked_for_tree = now
                        self._publish(self._tree(state))
            if time.monotonic() - second.began >= 1:
                self._seconds.append(self._sum_up(second))
                self._num_seconds += 1
                self._tell()
                second = self._new_second()
            await asyncio.sleep(TICK_SECONDS)

    def _new_second(self) -> _Begun:
        totals = self._metrics.totals
        return _Begun(time.monotonic(), totals.generated_tokens, totals.prefill_tokens)

    def _sum_up(self, second: _Begun) -> Second:
        totals, stats = self._metrics.totals, self._engine.stats
        elapsed = time.monotonic() - second.began
        return Second(
            time=time.time(),
            generated=(totals.generated_tokens - second.generated) / elapsed,
            prefill=(totals.prefill_tokens - second.prefill) / elapsed,
            num_running=stats.num_running,
            num_queued=stats.num_waiting,
            ttft=self._ttft.take(),
            gap=self._gap.take(),
        )

    def _tree(self, state: EngineState) -> Tree:
        decode = self._engine.tokenizer.decode
        nodes = [
            Node.of(node, decode(node.token_ids, skip_special_tokens=False) if node.token_ids else "")
            for node in state.tree or ()
        ]
        return Tree(nodes, state.num_hidden)

    def _publish(self, event: State | Tree | Down) -> None:
        """Let the watchers see an event, unless the last one of its kind was the same."""
        kind = "tree" if isinstance(event, Tree) else "state"
        encoded = _event(event)
        if self._latest.get(kind) != encoded:
            self._latest[kind] = encoded
            self._tell()

    def _tell(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()


def _event(event: Event) -> bytes:
    return b"data: %b\n\n" % _encode(event)
