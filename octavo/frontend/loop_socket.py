"""A ZeroMQ socket on an event loop: messages are handed on as they come, sending never blocks."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence

import zmq

_MESSAGES_AT_ONCE = 16
"""Messages that one callback reads before it lets the event loop do other things."""


class LoopSocket:
    """Belongs to the event loop that runs when it is made; `take` gets the frames of each message."""

    def __init__(self, kind: int, take: Callable[[list[bytes]], None], routing_id: bytes = b"") -> None:
        """`kind` is ZeroMQ's; `routing_id` is what a ROUTER at the other end knows it by."""
        self._loop = asyncio.get_running_loop()
        self._take = take
        self.closed = False
        self._context = zmq.Context()
        self._socket: zmq.Socket[bytes] = self._context.socket(kind)
        # What is not sent yet is bounded by the open requests; the event loop must never block here.
        self._socket.setsockopt(zmq.SNDHWM, 0)
        self._socket.setsockopt(zmq.LINGER, 0)
        if routing_id:
            self._socket.setsockopt(zmq.ROUTING_ID, routing_id)
        self._loop.add_reader(self._fd, self._read)

    def bind(self, address: str) -> None:
        """Listen."""
        self._socket.bind(address)

    def connect(self, address: str) -> None:
        """Talk to whoever listens there."""
        self._socket.connect(address)

    def send(self, *frames: bytes) -> None:
        """Queue a message; one that nobody will read is dropped."""
        if self.closed:
            return
        try:
            self._socket.send_multipart(frames, zmq.NOBLOCK)
        except zmq.Again:
            return
        # Sending can consume the wake-up of a message that came meanwhile; the fd would stay silent.
        if self._has_message:
            self._loop.call_soon(self._read)

    def read(self) -> None:
        """Hand on what is there now."""
        self._read()

    def close(self) -> None:
        """Drop what is not sent yet, and take no more."""
        if self.closed:
            return
        self.closed = True
        self._loop.remove_reader(self._fd)
        self._socket.close()
        self._context.term()

    @property
    def _fd(self) -> int:
        return int(self._socket.getsockopt(zmq.FD))

    @property
    def _has_message(self) -> bool:
        return bool(int(self._socket.getsockopt(zmq.EVENTS)) & zmq.POLLIN)

    def _read(self) -> None:
        """Read until nothing is left: the fd signals once for any number of messages."""
        for _ in range(_MESSAGES_AT_ONCE):
            if self.closed:
                return
            if not self._has_message:
                return
            self._take(self._socket.recv_multipart(zmq.NOBLOCK))
        self._loop.call_soon(self._read)


class SocketFolder:
    """A new folder for sockets, that only this user may enter, its path short enough for their addresses."""

    def __init__(self, names: Sequence[str]) -> None:
        """`names` are the sockets that will be in it."""
        folder = tempfile.mkdtemp(prefix="octavo-")
        longest = max(len(name) for name in names)
        if len(os.fsencode(folder)) + 1 + longest >= zmq.IPC_PATH_MAX_LEN:
            os.rmdir(folder)
            folder = tempfile.mkdtemp(prefix="octavo-", dir="/tmp")
        self.path = folder

    def address(self, name: str) -> str:
        """That of a socket in it."""
        return f"ipc://{self.path}/{name}"

    def remove(self) -> None:
        """With the sockets in it."""
        shutil.rmtree(self.path, ignore_errors=True)
