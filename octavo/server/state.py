"""What all requests of a server share, whichever of its processes answers them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Protocol

import octavo
from octavo.frontend.async_engine import AsyncEngine
from octavo.observe.api_processes import ApiProcesses
from octavo.observe.live_events import Hello, Second
from octavo.observe.live_feed import LiveFeed
from octavo.observe.metrics import Metrics
from octavo.observe.request_series import RequestSeries
from octavo.observe.stats_line import StatsLine
from octavo.request_options import RequestOptions
from octavo.server.config import ServerConfig
from octavo.server.guards.admission import Admission
from octavo.server.response_store import ResponseStore


class Ticket(Protocol):
    """A prompt that was let in; both may be called more than once."""

    def started(self) -> None:
        """The first token is there."""
        ...

    def leave(self) -> None:
        """The prompt is over, with or without a token."""
        ...


class ServerState(Protocol):
    """Metrics, admission, stored responses and the live view; here, or asked of the parent process."""

    @property
    def series(self) -> RequestSeries:
        """Where requests are counted."""
        ...

    async def run(self) -> None:
        """What goes on beside the requests, until cancelled."""
        ...

    async def metrics_text(self) -> bytes:
        """All metrics in Prometheus's text format."""
        ...

    async def num_open(self) -> int:
        """Requests that are open."""
        ...

    async def admit(self, prompt_tokens: Sequence[int], options: RequestOptions) -> Sequence[Ticket]:
        """Tickets for the prompts of a request, from their lengths.

        Raises APIError 429, with Retry-After, when the request is refused.
        """
        ...

    async def keep_response(self, owner: str, response_id: str, encoded: bytes, num_characters: int) -> None:
        """Keep a response of `owner`'s, unless it is too long: it counts as so many characters."""
        ...

    async def find_response(self, owner: str, response_id: str) -> bytes | None:
        """A response of `owner`'s that is kept."""
        ...

    async def forget_response(self, owner: str, response_id: str) -> bool:
        """Keep it no longer; whether it was there."""
        ...

    def watch(self) -> AsyncGenerator[bytes, None]:
        """The live view's events; raises FeedFullError at the first step."""
        ...

    def close(self) -> None:
        """End the streams that no client ends."""
        ...


class Observed:
    """What is counted of an engine: its metrics, and the feed of the live view."""

    def __init__(
        self, engine: AsyncEngine, config: ServerConfig, model_names: list[str], api: ApiProcesses
    ) -> None:
        """Takes the engine's steps; `api` are the processes that answer for it."""
        self.metrics = Metrics(model_names[0], engine.max_model_len, engine.config.kv_cache_metrics)
        self.metrics.watch(engine, api)
        engine.on_step = self.metrics.on_step
        self._log_interval = config.log_stats_interval

        def hello(seconds: list[Second]) -> Hello:
            return _hello(engine, model_names, config.page_show_text, seconds)

        self.feed = LiveFeed(engine, self.metrics, hello, show_text=config.page_show_text)

    async def log(self) -> None:
        """Log the lines of statistics, if they are wanted, until cancelled."""
        if self._log_interval:
            await StatsLine(self.metrics).run(self._log_interval)


class LocalState:
    """That of a server with one process."""

    def __init__(
        self,
        engine: AsyncEngine,
        config: ServerConfig,
        model_names: list[str],
        num_open: Callable[[], int],
    ) -> None:
        self._observed = Observed(engine, config, model_names, ApiProcesses())
        self.series: RequestSeries = self._observed.metrics
        self._num_open = num_open
        self._admission = make_admission(engine, config)
        self._responses = ResponseStore(config.max_stored_responses)
        self.watch = self._observed.feed.watch
        self.close = self._observed.feed.close
        self.run = self._observed.log

    async def metrics_text(self) -> bytes:
        return self._observed.metrics.render()

    async def num_open(self) -> int:
        return self._num_open()

    async def admit(self, prompt_tokens: Sequence[int], options: RequestOptions) -> Sequence[Ticket]:
        return self._admission.enter(prompt_tokens, options)

    async def keep_response(self, owner: str, response_id: str, encoded: bytes, num_characters: int) -> None:
        self._responses.add(owner, response_id, encoded, num_characters)

    async def find_response(self, owner: str, response_id: str) -> bytes | None:
        return self._responses.get(owner, response_id)

    async def forget_response(self, owner: str, response_id: str) -> bool:
        return self._responses.delete(owner, response_id)


def make_admission(engine: AsyncEngine, config: ServerConfig) -> Admission:
    """The admission control that the settings ask for."""
    target = engine.config.target_ttft
    return Admission(
        None if target is None else target / 1000, config.max_waiting, engine.config.scheduling_policy
    )


def _hello(engine: AsyncEngine, model_names: list[str], shows_text: bool, seconds: list[Second]) -> Hello:
    config, ready = engine.config, engine.ready
    return Hello(
        version=octavo.__version__,
        models=model_names,
        isa=ready.isa,
        block_size=config.block_size,
        num_blocks=ready.num_blocks,
        kv_cache_bytes=ready.kv_cache_bytes,
        max_model_len=engine.max_model_len,
        max_num_seqs=config.max_num_seqs,
        max_num_batched_tokens=config.max_num_batched_tokens,
        shows_text=shows_text,
        seconds=seconds,
    )
