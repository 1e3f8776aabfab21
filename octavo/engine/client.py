"""The client of one engine process, on the event loop: messages out, messages in, and its end."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence

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
from octavo.engine.process import ProcessOptions
from octavo.engine.supervisor import EngineDeadError, EngineProcess

_log = logging.getLogger(__name__)
_MESSAGES_AT_ONCE = 16
"""Messages that one callback reads before it lets the event loop do other things."""


class EngineClient:
    """Starts an engine process and talks to it; never reused for another, so nothing stale can arrive.

    Belongs to the event loop that runs when it is made. `ready` gets EngineDeadError, its reason in one
    line, when the engine does not start. Once it is ready set `on_step`, for each step's outputs, `on_state`,
    for what was asked for, and `on_lost(reason, crashed)`, which comes once if the engine ends without being
    told to; `crashed` unless something outside killed it.
    """

    on_step: Callable[[StepOutputs], None]
    on_state: Callable[[EngineState], None]
    on_lost: Callable[[str, bool], None]

    def __init__(self, config: EngineConfig, command: Sequence[str]) -> None:
        """Raises EngineDeadError when the command can not be run."""
        self._loop = asyncio.get_running_loop()
        self.ready: asyncio.Future[EngineReady] = self._loop.create_future()
        # A start that is given up for another reason leaves nobody to look at the error.
        self.ready.add_done_callback(lambda ready: ready.cancelled() or ready.exception())
        self._exited = asyncio.Event()
        self._closed = False
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder: msgspec.msgpack.Decoder[FromEngine] = msgspec.msgpack.Decoder(FromEngine)
        self._folder = _socket_folder()
        self._context = zmq.Context()
        self._socket: zmq.Socket[bytes] = self._context.socket(zmq.PAIR)
        # What is not sent yet is bounded by the open requests; the API process must never block here.
        self._socket.setsockopt(zmq.SNDHWM, 0)
        self._socket.setsockopt(zmq.LINGER, 0)
        address = f"ipc://{self._folder}/engine"
        self._socket.bind(address)
        self._loop.add_reader(self._fd, self._read)
        options = msgspec.json.encode(ProcessOptions(address, config))
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
        if self._closed:
            return
        try:
            self._socket.send(self._encoder.encode(message), zmq.NOBLOCK)
        except zmq.Again:
            return  # nobody is at the other end any more: `on_lost` follows
        # Sending can consume the wake-up of a message that came meanwhile; the fd would stay silent.
        if self._has_message:
            self._loop.call_soon(self._read)

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

    @property
    def _fd(self) -> int:
        return int(self._socket.getsockopt(zmq.FD))

    @property
    def _has_message(self) -> bool:
        return bool(int(self._socket.getsockopt(zmq.EVENTS)) & zmq.POLLIN)

    def _read(self) -> None:
        """Read until nothing is left: the fd signals once for any number of messages."""
        for _ in range(_MESSAGES_AT_ONCE):
            if self._closed:
                return
            if not self._has_message:
                return
            self._handle(self._decoder.decode(self._socket.recv(zmq.NOBLOCK)))
        self._loop.call_soon(self._read)

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
        self._read()
        self._lose(self._process.death, self._process.crashed)

    def _lose(self, reason: str, crashed: bool) -> None:
        if self._closed:
            return
        self.kill()
        if not self.ready.done():
            self.ready.set_exception(EngineDeadError(reason))
        else:
            self.on_lost(reason, crashed)

    def _close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._loop.remove_reader(self._fd)
        self._socket.close()
        self._context.term()
        shutil.rmtree(self._folder, ignore_errors=True)


def _ignore(reason: str, crashed: bool) -> None:
    pass


def _socket_folder() -> str:
    """A new folder that only this user may enter, with a path that a socket's address has room for."""
    folder = tempfile.mkdtemp(prefix="octavo-")
    if len(os.fsencode(folder)) + len("/engine") < zmq.IPC_PATH_MAX_LEN:
        return folder
    os.rmdir(folder)
    return tempfile.mkdtemp(prefix="octavo-", dir="/tmp")
