"""The engine process's loop and its life: what it sends, when it sleeps, and how it leaves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest
import zmq
from support.fake_engine import FakeEngine, command, fake_tokens

from octavo.config import EngineConfig
from octavo.engine.messages import (
    AbortRequests,
    AddRequest,
    DescribeState,
    EngineFailed,
    EngineReady,
    EngineState,
    FromEngine,
    ResetPrefixCache,
    Shutdown,
    StepOutputs,
    ToEngine,
)
from octavo.engine.process.engine_process import EngineLoop, ProcessOptions, StopRequest, one_line
from octavo.sampling_params import SamplingParams

TIMEOUT_MS = 20_000


class Parent:
    """The parent's end of the socket."""

    def __init__(self, folder: Path) -> None:
        self.address = f"ipc://{folder}/s"
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.PAIR)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.bind(self.address)

    def send(self, message: ToEngine) -> None:
        self._socket.send(msgspec.msgpack.encode(message))

    def receive(self, timeout_ms: int = TIMEOUT_MS) -> FromEngine | None:
        if not self._socket.poll(timeout_ms):
            return None
        return msgspec.msgpack.decode(self._socket.recv(), type=FromEngine)

    def close(self) -> None:
        self._socket.close()
        self._context.term()


@pytest.fixture
def parent(tmp_path: Path) -> Iterator[Parent]:
    parent = Parent(tmp_path)
    yield parent
    parent.close()


def request(request_id: str = "r", max_tokens: int = 5) -> AddRequest:
    return AddRequest(request_id, [1, 2], SamplingParams(seed=9, max_tokens=max_tokens), [], 0.0)


@contextmanager
def loop(engine: FakeEngine, parent: Parent) -> Iterator[StopRequest]:
    """The loop in a thread of this process, until the block ends."""
    context = zmq.Context()
    socket = context.socket(zmq.PAIR)
    socket.setsockopt(zmq.LINGER, 0)
    socket.connect(parent.address)
    stop = StopRequest()
    thread = threading.Thread(target=EngineLoop(engine, socket, stop).run)
    thread.start()
    try:
        yield stop
    finally:
        stop.set()
        thread.join(60)
        assert not thread.is_alive()
        socket.close()
        context.term()
        stop.close()


def test_each_step_is_a_message(parent: Parent) -> None:
    with loop(FakeEngine(), parent):
        parent.send(request())
        steps = [parent.receive() for _ in range(5)]
    tokens = [step.outputs[0].token_ids[0] for step in steps if isinstance(step, StepOutputs)]
    assert tokens == fake_tokens([1, 2], 9, 5)
    assert isinstance(steps[-1], StepOutputs)
    assert steps[-1].outputs[0].finish_reason == "length"


def test_an_abort_is_seen_in_the_statistics_though_nothing_is_left_to_run(parent: Parent) -> None:
    # Without the step that follows it, a server's metrics would show the aborted request running for ever.
    with loop(FakeEngine(step_seconds=0.02), parent):
        parent.send(request(max_tokens=100_000))
        step = parent.receive()
        assert isinstance(step, StepOutputs)
        assert step.stats.num_running == 1
        parent.send(AbortRequests(["r"]))
        while step is not None and step.stats.num_running:
            step = parent.receive()
            assert isinstance(step, StepOutputs)
        assert step.outputs == []
        assert parent.receive(200) is None


def test_without_work_it_sleeps(parent: Parent) -> None:
    engine = FakeEngine()
    with loop(engine, parent):
        parent.send(request(max_tokens=1))
        assert parent.receive() is not None
        before = time.process_time()
        assert parent.receive(300) is None
        assert time.process_time() - before < 0.1
    assert engine.num_steps == 1


def test_a_description_comes_without_a_step_and_between_steps(parent: Parent) -> None:
    engine = FakeEngine()
    with loop(engine, parent):
        parent.send(DescribeState())
        state = parent.receive()
        assert isinstance(state, EngineState)
        assert (state.num_running, engine.num_steps) == (0, 0)
        parent.send(request(max_tokens=100_000))
        parent.send(DescribeState())
        while not isinstance(state := parent.receive(), EngineState):
            assert isinstance(state, StepOutputs)
        assert state.num_running == 1


def test_an_abort_and_a_reset_arrive(parent: Parent) -> None:
    engine = FakeEngine(step_seconds=0.01)
    with loop(engine, parent):
        parent.send(request(max_tokens=10_000))
        assert parent.receive() is not None
        parent.send(ResetPrefixCache())
        parent.send(AbortRequests(["r"]))
        while engine.has_work:
            parent.receive(10)
    assert (engine.aborted, engine.cache_resets, engine.has_work) == (["r"], 1, False)


def test_shutdown_leaves_after_the_step(parent: Parent) -> None:
    engine = FakeEngine()
    with loop(engine, parent) as stop:
        parent.send(request(max_tokens=10_000))
        assert parent.receive() is not None
        parent.send(Shutdown())
        while (last := parent.receive(500)) is not None:
            assert isinstance(last, StepOutputs)
        assert not stop.requested
        assert engine.has_work


def test_a_stop_request_wakes_a_loop_that_sleeps(parent: Parent) -> None:
    with loop(FakeEngine(), parent):
        time.sleep(0.1)


def start(parent: Parent, *arguments: str) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        command(*arguments),
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path or "." for path in sys.path)},
    )
    assert process.stdin is not None
    options = ProcessOptions(parent.address, EngineConfig(model="some model"))
    process.stdin.write(msgspec.json.encode(options) + b"\n")
    process.stdin.flush()
    return process


@contextmanager
def started(parent: Parent, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    with start(parent, *arguments) as process:
        try:
            yield process
        finally:
            process.kill()


def test_it_says_that_it_is_ready_and_sigterm_finishes_the_step(parent: Parent) -> None:
    with started(parent, "0.5") as process:
        assert isinstance(parent.receive(), EngineReady)
        parent.send(request(max_tokens=1000))
        assert isinstance(parent.receive(), StepOutputs)
        time.sleep(0.2)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        assert process.stderr is not None
        assert process.stderr.read() == b""
        assert isinstance(parent.receive(1000), StepOutputs)


def test_sigterm_ends_an_idle_one(parent: Parent) -> None:
    with started(parent) as process:
        assert isinstance(parent.receive(), EngineReady)
        time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0


@pytest.mark.parametrize("busy", [False, True])
def test_it_leaves_when_its_parent_does(parent: Parent, busy: bool) -> None:
    with started(parent, "0.01") as process:
        assert isinstance(parent.receive(), EngineReady)
        if busy:
            parent.send(request(max_tokens=10**6))
            assert isinstance(parent.receive(), StepOutputs)
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(60) == 1


def test_a_start_that_fails_is_one_line_without_a_traceback(parent: Parent) -> None:
    with started(parent, "refuse") as process:
        message = parent.receive()
        assert message == EngineFailed("model (--model): 'some model' is not a model")
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(60) == 1
        assert process.stderr is not None
        assert process.stderr.read() == b""


def test_a_step_that_raises_is_told_with_its_traceback_on_stderr(parent: Parent) -> None:
    with started(parent) as process:
        assert isinstance(parent.receive(), EngineReady)
        bad = request()
        bad.params.seed = None  # the fake engine asserts that there is one
        parent.send(bad)
        assert parent.receive() == EngineFailed("AssertionError")
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(60) == 1
        assert process.stderr is not None
        assert b"Traceback" in process.stderr.read()


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("a\n  b"), "a b"),
        (ValueError(), "ValueError"),
        (RuntimeError("x"), "RuntimeError: x"),
        (MemoryError(), "MemoryError"),
    ],
)
def test_one_line(error: Exception, line: str) -> None:
    assert one_line(error) == line


def test_the_process_needs_no_web_framework() -> None:
    script = (
        "import sys, octavo.engine.process.engine_process\n"
        "print({'fastapi', 'uvicorn', 'jinja2'} & set(sys.modules))"
    )
    found = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path or "." for path in sys.path)},
    )
    assert found.stdout.strip() == "set()"
