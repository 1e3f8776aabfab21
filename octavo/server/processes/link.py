"""An API process's end of the socket to its parent."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import count

import msgspec
import zmq

from octavo.frontend.loop_socket import LoopSocket
from octavo.frontend.shared_engine import EngineNews
from octavo.server.processes.messages import Answer, Ask, Event, FromParent, Join, Question, ToParent, Value


class Link:
    """Belongs to the event loop that runs when it is made. There is no time-out: with the parent, we end."""

    def __init__(self, address: str, name: str, on_news: Callable[[EngineNews], None]) -> None:
        """`name` is this process's alone; `on_news` is told of the engine, first how it is now."""
        self._on_news = on_news
        self._numbers = count(1)
        self._questions: dict[int, asyncio.Future[Value]] = {}
        self.watches: dict[int, asyncio.Queue[Event]] = {}
        """Those who watch the live view here, by number."""
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder: msgspec.msgpack.Decoder[FromParent] = msgspec.msgpack.Decoder(FromParent)
        self._socket = LoopSocket(zmq.DEALER, self._take, name.encode())
        self._socket.connect(address)
        self.send(Join())

    def send(self, message: ToParent) -> None:
        """Tell the parent something."""
        self._socket.send(self._encoder.encode(message))

    def next_number(self) -> int:
        """One that was not used yet."""
        return next(self._numbers)

    async def ask(self, question: Question, number: int | None = None) -> Value:
        """The parent's answer."""
        number = self.next_number() if number is None else number
        answer: asyncio.Future[Value] = asyncio.get_running_loop().create_future()
        self._questions[number] = answer
        self.send(Ask(number, question))
        try:
            return await answer
        finally:
            del self._questions[number]

    def close(self) -> None:
        """Say and hear no more."""
        self._socket.close()

    def _take(self, frames: list[bytes]) -> None:
        match self._decoder.decode(frames[0]):
            case Answer(number, value):
                answer = self._questions.get(number)
                if answer is not None and not answer.done():
                    answer.set_result(value)
            case Event() as event:
                if event.number in self.watches:
                    self.watches[event.number].put_nowait(event)
            case news:
                self._on_news(news)
