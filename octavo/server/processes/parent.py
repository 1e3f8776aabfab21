"""The parent of several API processes: it owns the listening sockets, the engine, and what they share."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging.config
import signal
import socket
import sys
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
import zmq

from octavo.config import EngineConfig
from octavo.frontend.loop_socket import LoopSocket, SocketFolder
from octavo.frontend.shared_engine import EngineNews, SharedEngine
from octavo.frontend.supervisor import RestartBudget, child_environment
from octavo.observe.api_processes import ApiProcesses
from octavo.server.config import ServerConfig
from octavo.server.processes.messages import ApiProcessOptions, FromParent, Join, Serving, ToParent, WantTurn

API_COMMAND = (sys.executable, "-P", "-m", "octavo.server.processes.process")
_EXTRA_SECONDS = 10.0
"""How much longer than --shutdown-timeout an API process may take to end."""

if TYPE_CHECKING:
    from octavo.server.processes.shared_state import SharedState

T = TypeVar("T")

_log = logging.getLogger(__name__)


class ApiProcessError(RuntimeError):
    """An API process could not start, or died too often."""


class Parent:
    """Starts the API processes and the engine, replaces those that die, and ends them all.

    An API process that dies takes its connections with it, and the engine forgets its requests; the others
    go on. Belongs to the event loop that runs when it is made.
    """

    def __init__(
        self, config: EngineConfig, server_config: ServerConfig, listeners: Sequence[socket.socket]
    ) -> None:
        """`config.model` is the model's path; each API process takes one of `listeners`, in turn."""
        self._config = config
        self._server_config = server_config
        self._listeners = listeners
        self._folder = SocketFolder(("parent",))
        self._socket = LoopSocket(zmq.ROUTER, self._take)
        self._socket.bind(self._folder.address("parent"))
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder: msgspec.msgpack.Decoder[ToParent] = msgspec.msgpack.Decoder(ToParent)
        self._processes: dict[str, asyncio.subprocess.Process] = {}
        self._observed = ApiProcesses({})
        self._joined: set[str] = set()
        self._serving: set[str] = set()
        self._all_serve = asyncio.Event()
        self._keepers: list[asyncio.Task[None]] = []
        self._budget = RestartBudget()
        self._draining = False
        self._engine: SharedEngine | None = None
        self._state: SharedState | None = None

    async def run(self, model: str, on_ready: Callable[[], None]) -> None:
        """Serve until `stop`, and until the API processes have ended; `model` as the user named it.

        Raises ApiProcessError when an API process does not start or they die too often, and what the start
        of an engine does.
        """
        count = self._server_config.api_server_count
        self._keepers = [asyncio.create_task(self._keep(index, model)) for index in range(count)]
        logging_stats: asyncio.Task[None] | None = None
        try:
            # It brings the web framework along: time for the API processes to begin with theirs.
            from octavo.server.processes.shared_state import SharedState
            from octavo.server.run import text_logging

            if self._server_config.log_format == "text":
                logging.config.dictConfig(text_logging())

            engine = self._engine = await self._unless_one_ends(SharedEngine.start(self._config))
            names = self._server_config.model_names(model)
            self._state = SharedState(engine, self._server_config, names, self._observed, self._send)
            engine.on_news, engine.on_turn = self._tell_all, self._send
            assert engine.news is not None
            self._tell_all(engine.news)
            logging_stats = asyncio.create_task(self._state.observed.log())
            await self._unless_one_ends(self._all_serve.wait())
            on_ready()
            await asyncio.gather(*self._keepers)
        finally:
            if logging_stats is not None:
                logging_stats.cancel()
            await self._end()

    def stop(self) -> None:
        """Let the API processes finish what is open, and end; the second time, end at once."""
        if not self._draining:
            self._draining = True
            for listener in self._listeners:
                listener.close()
            seconds = self._server_config.shutdown_timeout + _EXTRA_SECONDS
            asyncio.get_running_loop().call_later(seconds, self._signal, signal.SIGKILL)
        self._signal(signal.SIGTERM)

    def _signal(self, number: signal.Signals) -> None:
        for process in self._processes.values():
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(number)

    async def _unless_one_ends(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of `work`; raises ApiProcessError if an API process ends for good before."""
        working = asyncio.create_task(work)
        try:
            await asyncio.wait((working, *self._keepers), return_when=asyncio.FIRST_COMPLETED)
            for keeper in self._keepers:
                if keeper.done():
                    keeper.result()
                    raise ApiProcessError("an API process ended before all of them were ready")
            return working.result()
        finally:
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)

    async def _keep(self, index: int, model: str) -> None:
        """Start an API process, and another one when it dies, until `stop`."""
        for life in itertools.count(1):
            name = f"api{index}.{life}"
            process = self._processes[name] = await self._start(name, index, model)
            self._observed.pids[index] = process.pid
            await process.wait()
            del self._observed.pids[index]
            served = name in self._serving
            self._forget(name)
            if self._draining:
                return
            how = f"an API process left with {_exit(process.returncode)}"
            if life == 1 and not served:
                raise ApiProcessError(f"{how} before it served")
            if not self._budget.spend(time.monotonic()):
                limit, window = self._budget.limit, self._budget.window
                raise ApiProcessError(f"{how} (gave up after {limit} restarts in {window:g} s)")
            _log.warning("%s; starting another one", how)
            self._observed.num_restarts += 1

    async def _start(self, name: str, index: int, model: str) -> asyncio.subprocess.Process:
        # It stays open here too: connections wait in it while the process is replaced.
        listener = self._listeners[index % len(self._listeners)].fileno()
        process = await asyncio.create_subprocess_exec(
            *API_COMMAND,
            stdin=asyncio.subprocess.PIPE,
            pass_fds=(listener,),
            env=child_environment(),
            start_new_session=True,  # Ctrl-C is for us
        )
        options = ApiProcessOptions(
            name=name,
            address=self._folder.address("parent"),
            listener=listener,
            model=model,
            config=self._config,
            server_config=self._server_config,
        )
        assert process.stdin is not None
        with contextlib.suppress(ConnectionError):  # it may be dead already
            process.stdin.write(msgspec.json.encode(options) + b"\n")
            await process.stdin.drain()
        return process

    def _forget(self, name: str) -> None:
        """Nothing comes of that process any more."""
        del self._processes[name]
        self._joined.discard(name)
        if self._state is not None:
            self._state.forget(name)
        if self._engine is not None:
            self._engine.forget(name)

    def _take(self, frames: list[bytes]) -> None:
        name, message = frames[0].decode(), self._decoder.decode(frames[1])
        if name not in self._processes:
            return
        match message:
            case Join():
                self._joined.add(name)
                if self._engine is not None and self._engine.news is not None:
                    self._send(name, self._engine.news)
            case Serving():
                self._serving.add(name)
                if len(self._serving) == self._server_config.api_server_count:
                    self._all_serve.set()
            case WantTurn(wanted):
                assert self._engine is not None
                self._engine.want_turn(name, wanted=wanted)
            case _:
                assert self._state is not None  # they answer requests only once there is an engine
                self._state.take(name, message)

    def _tell_all(self, news: EngineNews) -> None:
        for name in self._joined:
            self._send(name, news)

    def _send(self, name: str, message: FromParent) -> None:
        self._socket.send(name.encode(), self._encoder.encode(message))

    async def _end(self) -> None:
        for keeper in self._keepers:
            keeper.cancel()
        self._draining = True
        await asyncio.gather(*self._keepers, return_exceptions=True)
        self._signal(signal.SIGKILL)
        for process in self._processes.values():
            await process.wait()
        if self._engine is not None:
            await self._engine.stop()
        if self._state is not None:
            self._state.close()
        self._socket.close()
        self._folder.remove()


def _exit(code: int | None) -> str:
    return f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
