"""One engine process for several processes: one of them owns it, the others use it.

The owner starts it and replaces it when it dies. Each of the others sends its requests straight to the
engine, keeps its own streams, and resubmits them when the owner says that there is another engine.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import zmq

from octavo.config import EngineConfig
from octavo.engine.messages import (
    EngineReady,
    EngineState,
    ForgetClient,
    FromEngine,
    StepOutputs,
    ToEngine,
)
from octavo.frontend.async_engine import AsyncEngine
from octavo.frontend.client import Client, EngineClient
from octavo.frontend.loop_socket import LoopSocket
from octavo.frontend.read_model import read_model
from octavo.frontend.request import RequestBuilder
from octavo.frontend.suspects import TrialTurns


class EngineUp(msgspec.Struct, tag="engine_up", array_like=True):
    """An engine takes requests at `address`; it is the `num_restarts`-th replacement of one that died."""

    address: str
    pid: int
    ready: EngineReady
    num_restarts: int


class EngineDown(msgspec.Struct, tag="engine_down", array_like=True):
    """The engine died and will be replaced; `crashed` unless something outside killed it."""

    reason: str
    crashed: bool


class EngineGone(msgspec.Struct, tag="engine_gone", array_like=True):
    """There will be no engine any more."""

    error: str


class TrialTurn(msgspec.Struct, tag="trial_turn", array_like=True):
    """This process may now run the requests that may be what kills the engine, one at a time."""


EngineNews = EngineUp | EngineDown | EngineGone | TrialTurn


class SharedEngine(AsyncEngine):
    """The owner's; it sees the steps of all clients' requests, without log probabilities."""

    on_news: Callable[[EngineNews], None] | None = None
    """Told what becomes of the engine, for all its users."""
    on_turn: Callable[[str, TrialTurn], None] | None = None
    """Told whose turn it is, for that user."""
    news: EngineNews | None = None
    """The latest."""
    _turns: TrialTurns | None = None

    def want_turn(self, name: str, *, wanted: bool) -> None:
        """That user has suspects, or has no more of them."""
        if self._turns is None:
            self._turns = TrialTurns(self._grant)
        (self._turns.ask if wanted else self._turns.give_back)(name)

    def _grant(self, name: str) -> None:
        if self.on_turn is not None:
            self.on_turn(name, TrialTurn())

    def forget(self, name: str) -> None:
        """The client of that name is gone: its requests end."""
        self._send([ForgetClient(name)])
        self.want_turn(name, wanted=False)

    @staticmethod
    def _new_client(config: EngineConfig, command: Sequence[str]) -> EngineClient:
        return EngineClient(config, command, shared=True)

    def _take_over(self, client: Client, ready: EngineReady) -> None:
        super()._take_over(client, ready)
        assert isinstance(client, EngineClient)
        assert client.address_for_others is not None
        first = self.news is None
        self._tell_clients(
            EngineUp(client.address_for_others, client.pid, ready, self.num_restarts + (not first))
        )

    def _lose(self, reason: str, crashed: bool) -> None:
        super()._lose(reason, crashed)
        if self._turns is not None:
            self._turns.clear()
        self._tell_clients(EngineDown(reason, crashed))

    def _end(self, error: str) -> None:
        super()._end(error)
        self._tell_clients(EngineGone(self._dead or error))

    def _tell_clients(self, news: EngineNews) -> None:
        self.news = news
        if self.on_news is not None:
            self.on_news(news)


class AttachedEngine(AsyncEngine):
    """A user's; `tell` lets it know what becomes of the engine.

    `want_turn` is called with whether it has suspects, for its owner to say when they may run.
    """

    want_turn: Callable[[bool], None]

    def __init__(self, config: EngineConfig, requests: RequestBuilder, name: str) -> None:
        """`name` is this process's alone."""
        super().__init__(config, requests, source=f"{name}-")
        self._name = name
        self._has_asked = self._has_turn = False
        self._settled = asyncio.Event()

    @classmethod
    def read(cls, config: EngineConfig, name: str) -> AttachedEngine:
        """With the tokenizer of `config.model`, a path; raises ValueError for what can not be read."""
        requests, sampling = read_model(Path(config.model), config)
        engine = cls(config, requests, name)
        engine.sampling_defaults = sampling
        return engine

    async def settled(self) -> bool:
        """Wait for the first engine; False when there will be none."""
        await self._settled.wait()
        return self._dead is None

    def tell(self, news: EngineNews) -> None:
        """Take in news of the engine."""
        match news:
            case EngineUp():
                self.num_restarts = news.num_restarts
                self._take_over(AttachedClient(news, self._name), news.ready)
            case EngineDown(reason, crashed):
                self._leave()
                self._has_asked = self._has_turn = False
                self._lose(reason, crashed)
                return
            case TrialTurn():
                self._has_turn = self._has_asked
                self._try_next_suspect()
                return
            case EngineGone(error):
                self._leave()
                self._end(error)
        self._settled.set()

    def _try_next_suspect(self) -> None:
        """Run it only when no other process runs one of its own."""
        if self._has_turn:
            super()._try_next_suspect()
        pending = self._suspects.pending
        if pending != self._has_asked:
            self._has_asked = pending
            self._has_turn = self._has_turn and pending
            self.want_turn(pending)

    def _leave(self) -> None:
        if isinstance(self._client, AttachedClient):
            self._client.close()


class AttachedClient:
    """Sends requests to an engine process that another process started."""

    on_step: Callable[[StepOutputs], None]
    on_state: Callable[[EngineState], None]

    def __init__(self, engine: EngineUp, name: str) -> None:
        """`name` is this process's alone: the engine tells its clients by it."""
        self._pid = engine.pid
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder: msgspec.msgpack.Decoder[FromEngine] = msgspec.msgpack.Decoder(FromEngine)
        self._socket = LoopSocket(zmq.DEALER, self._take, name.encode())
        self._socket.connect(engine.address)

    @property
    def pid(self) -> int:
        """The engine's process id."""
        return self._pid

    def send(self, message: ToEngine) -> None:
        """Queue a message; one to an engine that has ended is dropped."""
        self._socket.send(self._encoder.encode(message))

    async def stop(self) -> None:
        """Leave the engine to its owner."""
        self.close()

    def close(self) -> None:
        """Send and take no more."""
        self._socket.close()

    def _take(self, frames: list[bytes]) -> None:
        match self._decoder.decode(frames[0]):
            case StepOutputs() as step:
                self.on_step(step)
            case EngineState() as state:
                self.on_state(state)
