"""The client of one engine process, on the event loop: messages out, messages in, and its end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec
import zmq

from octavo.config import EngineConfig
from octavo.engine.messages import (
    EngineFailed,
    EngineReady,
    EngineState,
    FromEngine,
    Shutdown,
    StepOutputs,
    ToEngine,
)
from octavo.engine.process.engine_process import ProcessOptions
from octavo.frontend.loop_socket import LoopSocket, SocketFolder
from octavo.frontend.supervisor import EngineDeadError, EngineProcess

_log = logging.getLogger(__name__)


class Client(Protocol):
    """What a process needs of an engine process that is ready, whoever started it."""

    on_step: Callable[[StepOutputs], None]
    on_state: Callable[[EngineState], None]

    @property
    def pid(self) -> int:
        """The engine's process id."""
        ...

    def send(self, message: ToEngine) -> None:
        """Queue a message; one to an engine that has ended is dropped."""
        ...

    async def stop(self) -> None:
        """Have no more to do with the engine."""
        ...


class EngineClient:
    """Starts an engine process and talks to it; never reused for another, so nothing stale can arrive.

    Belongs to the event loop that runs when it is made. `ready` gets EngineDeadError, its reason in one line,
    when the engine does not start. Once it is ready set three callbacks. `on_step` gets the outputs of each
    step. `on_state` gets the states that were asked for. `on_lost(reason, crashed)` is called once if the
    engine ends without being told to; `crashed` is true unless something outside killed it.
    """

    on_step: Callable[[StepOutputs], None]
    on_state: Callable[[EngineState], None]
    on_lost: Callable[[str, bool], None]

    def __init__(self, config: EngineConfig, command: Sequence[str], *, shared: bool = False) -> None:
        """`shared` lets other processes be clients of the engine too, at `address_for_others`.

        Raises EngineDeadError when the command can not be run.
        """
        self._loop = asyncio.get_running_loop()
        self.ready: asyncio.Future[EngineReady] = self._loop.create_future()
        # A start that is given up for another reason leaves nobody to look at the error.
        self.ready.add_done_callback(lambda ready: ready.cancelled() or ready.exception())
        self._exited = asyncio.Event()
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder: msgspec.msgpack.Decoder[FromEngine] = msgspec.msgpack.Decoder(FromEngine)
        self._folder = SocketFolder(("engine", "others"))
        self.address_for_others = self._folder.address("others") if shared else None
        self._socket = LoopSocket(zmq.PAIR, self._take)
        address = self._folder.address("engine")
        self._socket.bind(address)
        options = msgspec.json.encode(ProcessOptions(address, config, self.address_for_others))
        try:
            self._process = EngineProcess(command, options, self._notify_exit)
        except OSError as error:
            self._close()
            raise EngineDeadError(f"the engine process could not be started: {error}") from error

    @property
    def pid(self) -> int:
        """The engine's process id."""
        return self._process.pid

    def send(self, message: ToEngine) -> None:
        """Queue a message; one to an engine that has ended is dropped."""
        self._socket.send(self._encoder.encode(message))

    async def stop(self, timeout: float = 5.0) -> None:
        """Let the engine finish its step and leave; kill it after `timeout` seconds."""
        self.send(Shutdown())
        self.on_lost = _ignore
        try:
            await asyncio.wait_for(self.exited(), timeout)
        except TimeoutError:
            self.kill()
            await self.exited()
        self._close()

    def kill(self) -> None:
        """End the engine now."""
        self._process.kill()
        self._close()

    async def exited(self) -> None:
        """Return when the process is gone and its memory is free."""
        await self._exited.wait()

    def _take(self, frames: list[bytes]) -> None:
        self._handle(self._decoder.decode(frames[0]))

    def _handle(self, message: FromEngine) -> None:
        match message:
            case StepOutputs():
                self.on_step(message)
            case EngineState():
                self.on_state(message)
            case EngineReady():
                if not self.ready.done():
                    self.ready.set_result(message)
            case EngineFailed(error):
                self._lose(error, crashed=True)

    def _notify_exit(self) -> None:
        try:
            self._loop.call_soon_threadsafe(self._exit)
        except RuntimeError:
            _log.debug("engine process %d ended after its event loop", self.pid)

    def _exit(self) -> None:
        self._exited.set()
        self._socket.read()
        self._lose(self._process.death, self._process.crashed)

    def _lose(self, reason: str, crashed: bool) -> None:
        if self._socket.closed:
            return
        self.kill()
        if not self.ready.done():
            self.ready.set_exception(EngineDeadError(reason))
        else:
            self.on_lost(reason, crashed)

    def _close(self) -> None:
        self._socket.close()
        self._folder.remove()


def _ignore(reason: str, crashed: bool) -> None:
    pass
