"""The engine process: takes requests from a socket, steps the engine, sends each step's outputs.

Its standard input is its lifeline. The parent writes one line there, what to run, and keeps the pipe open;
when it closes, because the parent stopped or died, whatever the reason, this process leaves at once.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Protocol

import msgspec
import zmq

from octavo.config import EngineConfig
from octavo.engine.messages import (
    AbortRequests,
    AddRequest,
    DescribeState,
    EngineFailed,
    EngineReady,
    EngineState,
    ForgetClient,
    FromEngine,
    ResetPrefixCache,
    Shutdown,
    StepOutputs,
    ToEngine,
)
from octavo.engine.process.clients import Clients, counted
from octavo.engine.process.lifeline import leave_with_parent, read_line
from octavo.structured.vocabulary import Vocabulary

_LINGER_MS = 2000
_GOODBYE_SECONDS = 5.0
_EXPECTED_ERRORS = (ValueError, OSError, MemoryError)
"""What a start may fail with through no fault of the code: their message is enough without a traceback."""


class StepEngine(Protocol):
    """What the process needs of an engine."""

    @property
    def has_work(self) -> bool:
        """Whether `step` has something to do."""
        ...

    def ready(self) -> EngineReady:
        """What the engine offers."""
        ...

    def add(self, request: AddRequest) -> None:
        """Queue a request."""
        ...

    def abort(self, request_ids: list[str]) -> None:
        """Stop requests."""
        ...

    def use_vocabulary(self, vocabulary: Vocabulary) -> None:
        """Take the tokens that grammars are made of."""
        ...

    def reset_prefix_cache(self) -> None:
        """Forget cached blocks."""
        ...

    def describe(self, request: DescribeState) -> EngineState:
        """What the engine holds."""
        ...

    def step(self) -> StepOutputs:
        """Run the next batch."""
        ...

    def save_some(self) -> float | None:
        """Do some of the work that can wait; the seconds until there may be more, None when there is none."""
        ...

    def close(self) -> None:
        """Save what is to be kept."""
        ...


class ProcessOptions(msgspec.Struct):
    """The line on standard input: where the parent listens, what to run, and where to listen for others."""

    address: str
    config: EngineConfig
    address_for_others: str | None = None


class StopRequest:
    """SIGTERM as something that a poll waits for: the step that runs is finished first."""

    def __init__(self) -> None:
        self.requested = False
        self.read_fd, self._write_fd = os.pipe()

    def set(self) -> None:
        """Ask the loop to leave; may be called from a signal handler or another thread."""
        self.requested = True
        os.write(self._write_fd, b"x")

    def close(self) -> None:
        """Close the pipe."""
        os.close(self.read_fd)
        os.close(self._write_fd)


class EngineLoop:
    """The loop between a socket and an engine: drain what came in, step, send what came out."""

    def __init__(
        self,
        engine: StepEngine,
        socket: zmq.Socket[bytes],
        stop: StopRequest,
        clients: Clients | None = None,
    ) -> None:
        """`socket` leads to the parent; `clients` are other processes that send requests."""
        self._engine = engine
        self._socket = socket
        self._clients = clients
        self._stop = stop
        self._decoder = msgspec.msgpack.Decoder(ToEngine)
        self._encoder = msgspec.msgpack.Encoder()
        self._poller = zmq.Poller()
        self._poller.register(socket, zmq.POLLIN)
        self._poller.register(stop.read_fd, zmq.POLLIN)
        if clients is not None:
            self._poller.register(clients.socket, zmq.POLLIN)
        self._aborted = False
        """Whether requests ended since the last step: its statistics still count them."""

    def run(self) -> None:
        """Until `Shutdown` or a stop request; sleeps while there is no work. Raises what `step` does."""
        while not self._stop.requested:
            if not self._engine.has_work:
                self._sleep()
            if not self._drain():
                return
            if self._engine.has_work or self._aborted:
                self._send_step(self._engine.step())
                self._aborted = False

    def _sleep(self) -> None:
        """Until there is a message or a stop request; what can wait is done in the meantime."""
        while not self._poller.poll(0):
            seconds = self._engine.save_some()
            if self._poller.poll(None if seconds is None else int(1000 * seconds)):
                return

    def _drain(self) -> bool:
        """Take every message that is there; False after `Shutdown`."""
        while int(self._socket.getsockopt(zmq.EVENTS)) & zmq.POLLIN:
            match self._decoder.decode(self._socket.recv()):
                case Shutdown():
                    return False
                case ForgetClient(name):
                    if self._clients is not None:
                        self._abort(self._clients.forget(name))
                case DescribeState() as request:
                    self._socket.send(self._encoder.encode(self._engine.describe(request)))
                case message:
                    self._take(message)
        if self._clients is not None:
            for client, message in self._clients.messages():
                if isinstance(message, DescribeState):
                    self._clients.send(client, self._engine.describe(message))
                else:
                    self._take(message)
        return True

    def _take(self, message: AddRequest | AbortRequests | ResetPrefixCache | Vocabulary) -> None:
        match message:
            case Vocabulary():
                self._engine.use_vocabulary(message)
            case AddRequest():
                self._engine.add(message)
            case AbortRequests(request_ids):
                self._abort(request_ids)
            case ResetPrefixCache():
                self._engine.reset_prefix_cache()

    def _abort(self, request_ids: list[str]) -> None:
        self._engine.abort(request_ids)
        self._aborted = True

    def _send_step(self, step: StepOutputs) -> None:
        """To each client what is its own; to the parent everything, in full unless others were served."""
        if self._clients is not None:
            self._clients.deliver(step)
            step = counted(step)
        self._socket.send(self._encoder.encode(step))


def run(build: Callable[[EngineConfig], StepEngine]) -> int:
    """The whole life of an engine process; returns its exit code.

    Sends `EngineReady`, or `EngineFailed` when `build` or a step raises.
    """
    options = msgspec.json.decode(read_line(0), type=ProcessOptions)
    threading.Thread(target=leave_with_parent, daemon=True).start()
    with connected(options.address) as socket:
        try:
            engine = build(options.config)
            # What was built lives as long as the process: the garbage collector need not walk it each time.
            gc.collect()
            gc.freeze()
            stop = StopRequest()
            signal.signal(signal.SIGTERM, lambda *_: stop.set())
            with clients_at(options.address_for_others) as clients:
                _send(socket, engine.ready())
                EngineLoop(engine, socket, stop, clients).run()
                engine.close()
        except Exception as error:
            if not isinstance(error, _EXPECTED_ERRORS):
                traceback.print_exc()
            _send(socket, EngineFailed(one_line(error)))
            # The parent hangs up as soon as it has read that; leaving first could outrun the message.
            time.sleep(_GOODBYE_SECONDS)
            return 1
    return 0


def main() -> int:
    """Build the engine that the options ask for, and run it."""
    from octavo.engine.build import build_engine

    # Standard error is the server's: what the model and its memory come to is for whoever started it.
    logging.basicConfig(format="octavo engine: %(message)s")
    logging.getLogger("octavo").setLevel(logging.INFO)
    return run(build_engine)


@contextlib.contextmanager
def connected(address: str) -> Iterator[zmq.Socket[bytes]]:
    """A socket to the parent; what was sent is delivered before it closes."""
    context = zmq.Context()
    socket: zmq.Socket[bytes] = context.socket(zmq.PAIR)
    socket.setsockopt(zmq.LINGER, _LINGER_MS)
    socket.connect(address)
    try:
        yield socket
    finally:
        socket.close()
        context.term()


@contextlib.contextmanager
def clients_at(address: str | None) -> Iterator[Clients | None]:
    """Listen for other clients there, if anywhere."""
    if address is None:
        yield None
        return
    context = zmq.Context()
    clients = Clients(context, address)
    try:
        yield clients
    finally:
        clients.close()
        context.term()


def one_line(error: BaseException) -> str:
    """An error as one line for the user; the type's name only where the message was not written for one."""
    text = " ".join(str(error).split())
    if isinstance(error, ValueError) and text:
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _send(socket: zmq.Socket[bytes], message: FromEngine) -> None:
    socket.send(msgspec.msgpack.encode(message))


if __name__ == "__main__":
    sys.exit(main())
