"""The application on a real socket, in a thread, with an engine in the same event loop."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import openai
from fastapi import FastAPI
from support.in_process_engine import InProcessEngine
from support.step_gate import SECONDS

from octavo.config import EngineConfig
from octavo.server.app import create_app
from octavo.server.config import ServerConfig
from octavo.server.run import HTTPServer, make_server

MODEL = "hash"


class LiveServer:
    """What tests do with a server: ask it, look into its engine, stop it."""

    engine: InProcessEngine
    loop: asyncio.AbstractEventLoop
    http_server: HTTPServer
    app: FastAPI

    def __init__(self, listener: socket.socket) -> None:
        self._passed = 0.0
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        self.http = httpx.Client(base_url=self.url, timeout=SECONDS)
        self.openai = openai.OpenAI(base_url=f"{self.url}/v1", api_key="any", max_retries=0, timeout=SECONDS)

    def post(self, path: str, **body: Any) -> httpx.Response:
        return self.http.post(path, json=body)

    def metric(self, name: str) -> float:
        """The one sample of a metric of that name."""
        text = self.http.get("/metrics").text
        [line] = [line for line in text.splitlines() if line.startswith(f"vllm:{name}{{")]
        return float(line.split()[-1])

    def call(self, function: Any, *args: Any) -> None:
        """Call a function in the server's event loop."""
        self.loop.call_soon_threadsafe(function, *args)

    def hold(self) -> None:
        """Let the engine run no step until `release`."""
        self.call(self.engine.fake_client.gate.hold)

    def release(self) -> None:
        """Let the engine run on."""
        self.call(self.engine.fake_client.gate.release)

    def run_steps(self, count: int = 1) -> None:
        """Let an engine that is held, and has more than that to do, run `count` steps, and wait for them."""
        gate = self.engine.fake_client.gate
        ran = threading.Event()

        def allow() -> None:
            gate.allow(count)
            ran.set()

        self.call(allow)
        assert ran.wait(SECONDS)
        gate.wait()

    def pass_time(self, seconds: float) -> None:
        """Put the clock of the server's event loop forward."""
        self.call(self._pass_time, seconds)

    def _pass_time(self, seconds: float) -> None:
        self._passed += seconds

    def wait_for_requests(self, count: int) -> None:
        """Until the engine has been sent `count` sequences since it began."""
        self.wait_until(lambda: len(self.engine.fake_client.requests) >= count)

    def wait_until(self, condition: Callable[[], object]) -> None:
        """Until something holds that only a test that fails waits long for."""
        deadline = time.monotonic() + SECONDS
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.01)


@contextmanager
def live_server(
    config: ServerConfig | None = None,
    step_seconds: float = 0.0,
    engine: EngineConfig | None = None,
    *,
    clock_seconds: float = 0.0,
) -> Iterator[LiveServer]:
    """A server that answers, until the block ends.

    A step sleeps for `step_seconds`, and puts the clock of the server's event loop forward by
    `clock_seconds`.
    """
    config = config or ServerConfig()
    config.uvicorn_log_level = "warning"
    if clock_seconds:
        config.timeout_keep_alive = 10_000  # Or it would close between a client's requests.
    listener = socket.create_server(("127.0.0.1", 0))
    server = LiveServer(listener)
    ready = threading.Event()

    async def run() -> None:
        server.loop = asyncio.get_running_loop()
        now = server.loop.time
        server.loop.time = lambda: now() + server._passed  # type: ignore[method-assign]
        server.engine = InProcessEngine(step_seconds, engine)
        await server.engine.launch()
        server.engine.fake_client.after_step = lambda: server._pass_time(clock_seconds)
        server.app = create_app(server.engine, config, MODEL)
        server.http_server = make_server(server.app, config, ready.set)
        await server.http_server.serve(sockets=[listener])

    thread = threading.Thread(target=lambda: asyncio.run(run()))
    thread.start()
    assert ready.wait(SECONDS)
    try:
        yield server
    finally:
        server.http.close()
        server.openai.close()
        server.http_server.should_exit = True
        thread.join(SECONDS)
        assert not thread.is_alive()
