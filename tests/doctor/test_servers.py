"""Servers that are set up wrongly on purpose, under load; the doctor names what is wrong and the flag."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support.api_processes import API, children
from support.live_server import LiveServer, live_server
from support.serve_command import Command, serve

from octavo.config import EngineConfig
from octavo.doctor.examine import UnreachableError, diagnose, observe
from octavo.doctor.finding import Finding

Progress = Callable[[str], object]
SHORT = "a prompt of thirty-two letters.."


def problems(url: str, seconds: float = 0.0, progress: Progress = lambda _: None) -> dict[str, Finding]:
    """What is found wrong; `progress` is called before each look at the server."""
    found = diagnose(observe(url, seconds, progress))
    return {finding.name: finding for finding in found if finding.is_problem}


@contextmanager
def under_load(engine: EngineConfig, prompts: list[str], max_tokens: int) -> Iterator[LiveServer]:
    """A server that is busy with the prompts until the block ends, and runs the steps that it is told to."""
    with live_server(engine=engine) as server:
        server.hold()
        body = {"prompt": prompts, "max_tokens": max_tokens, "ignore_eos": True}
        load = threading.Thread(target=server.post, args=("/v1/completions",), kwargs=body)
        load.start()
        server.wait_for_requests(len(prompts))
        try:
            yield server
        finally:
            server.release()
            load.join()


def complete(server: LiveServer, prompt: str, max_tokens: int = 10, **more: Any) -> None:
    body = {"prompt": prompt, "max_tokens": max_tokens, "ignore_eos": True, **more}
    assert server.post("/v1/completions", **body).status_code == 200


def test_a_server_that_is_well() -> None:
    with live_server(engine=EngineConfig()) as server:
        complete(server, SHORT)
        assert problems(server.url) == {}


def test_too_few_sequences() -> None:
    prompts = [f"{number} {SHORT}" for number in range(30)]
    with under_load(EngineConfig(max_num_seqs=2), prompts, 20) as server:
        found = problems(server.url, 0.1, lambda _: server.run_steps(20))
    assert set(found) == {"max-num-seqs"}
    assert found["max-num-seqs"].change == "raise --max-num-seqs from 2 to 16"


def test_too_small_a_kv_cache() -> None:
    prompts = [f"{number} {SHORT}" for number in range(12)]
    with under_load(EngineConfig(num_gpu_blocks_override=16), prompts, 100) as server:
        found = problems(server.url, 0.1, lambda _: server.run_steps(20))
    assert set(found) == {"preemptions", "queue-for-kv-cache"}
    for finding in found.values():
        assert "leave out --num-gpu-blocks-override 16" in finding.change
        assert "KV cache" in finding.cause


def test_preemptions_are_named_when_they_are_over() -> None:
    with live_server(engine=EngineConfig(num_gpu_blocks_override=16)) as server:
        complete(server, SHORT, 100, n=6)
        found = problems(server.url)
    assert set(found) == {"preemptions"}
    assert "256 tokens" in found["preemptions"].cause
    assert "or lower --max-num-seqs to" in found["preemptions"].change


def test_no_prefix_caching() -> None:
    with live_server(engine=EngineConfig(enable_prefix_caching=False)) as server:
        complete(server, SHORT)
        found = problems(server.url)
    assert set(found) == {"prefix-caching-off"}
    assert found["prefix-caching-off"].change == "leave out --no-enable-prefix-caching"


def test_a_small_token_budget() -> None:
    with live_server(engine=EngineConfig(max_num_batched_tokens=16)) as server:
        for number in range(5):
            complete(server, f"{number} {SHORT}" * 5)
        found = problems(server.url)
    assert set(found) == {"max-num-batched-tokens"}
    assert "raise --max-num-batched-tokens from 16" in found["max-num-batched-tokens"].change


@pytest.fixture
def demo(demo_model: Path) -> Path:
    pytest.importorskip("octavo._native", reason="the kernels are not built")
    return demo_model


def answer(command: Command, prompt: str, max_tokens: int) -> None:
    body = {"prompt": prompt, "max_tokens": max_tokens, "ignore_eos": True}
    assert command.http.post("/v1/completions", json=body).status_code == 200


def test_no_chunked_prefill(demo: Path) -> None:
    with serve(demo, "--no-enable-chunked-prefill") as command:
        stream = threading.Thread(target=answer, args=(command, "One, two,", 80))
        stream.start()
        answer(command, "many words of a long prompt " * 150, 1)
        stream.join()
        found = problems(command.url)
    assert "chunked-prefill-off" in found
    assert found["chunked-prefill-off"].change == "leave out --no-enable-chunked-prefill"
    assert "long-steps" not in found


def test_the_wrong_number_of_threads() -> None:
    threads = len(os.sched_getaffinity(0)) + 1
    with live_server(engine=EngineConfig(threads=threads)) as server:
        found = problems(server.url)
    assert set(found) == {"threads"}
    assert found["threads"].change == f"leave out --threads {threads}"


def test_the_reference_backend() -> None:
    with live_server(engine=EngineConfig(backend="reference")) as server:
        found = problems(server.url)
    assert set(found) == {"reference-backend"}


def test_an_engine_that_died(demo: Path) -> None:
    with serve(demo) as command:
        children = Path(f"/proc/{command.process.pid}/task/{command.process.pid}/children").read_text()
        os.kill(int(children.split()[0]), signal.SIGKILL)
        answer(command, "One, two,", 1)
        found = problems(command.url)
    assert set(found) == {"engine-restarts"}
    assert found["engine-restarts"].severity == "critical"
    assert "lower --kv-cache-memory-bytes from 256MiB to 128MiB" in found["engine-restarts"].change


def test_a_url_where_nothing_is() -> None:
    with pytest.raises(UnreachableError, match="refused"):
        observe("http://127.0.0.1:1", 0, lambda _: None)
    with live_server() as server, pytest.raises(UnreachableError, match="/v1/metrics answers 404"):
        observe(f"{server.url}/v1", 0, lambda _: None)


def test_the_plainest_kernels(demo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OCTAVO_ISA", "portable")
    with serve(demo) as command:
        found = problems(command.url)
    assert set(found) == {"portable-kernels"}
    assert found["portable-kernels"].change == "leave OCTAVO_ISA unset"


@pytest.mark.parametrize("count", [1, 2])
def test_api_processes_that_can_do_no_more(count: int, demo: Path) -> None:
    """Code around the server takes 50 ms of a CPU for each request, the engine next to nothing."""
    flags = ("--middleware", "support.slow_middleware.slow", "--api-server-count", str(count))
    with serve(demo, *flags) as command:
        over = threading.Event()

        def load() -> None:
            while not over.is_set():
                answer(command, "One, two,", 1)

        clients = [threading.Thread(target=load) for _ in range(4 * count)]
        for client in clients:
            client.start()
        try:
            deadline = time.monotonic() + 60
            while "api-process-saturated" not in (found := problems(command.url, 1.0)):
                assert time.monotonic() < deadline, found
        finally:
            over.set()
            for client in clients:
                client.join()
    finding = found["api-process-saturated"]
    assert f"raise --api-server-count from {count}" in finding.change


def test_an_api_process_that_died(demo: Path) -> None:
    with serve(demo, "--api-server-count", "2") as command:
        pid = min(children(command, API))
        os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + 60
        while pid in (now := children(command, API)) or len(now) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        found = problems(command.url)
    assert set(found) == {"api-process-restarts"}
    assert "--middleware" in found["api-process-restarts"].cause
