"""Several API processes in front of one engine: one server to whoever asks it, whatever dies."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.api_processes import API, ENGINE, children, client_of
from support.serve_command import Command, serve

pytest.importorskip("octavo._native", reason="the kernels are not built")

BODY = {"model": "demo", "temperature": 0, "ignore_eos": True}
TWO = ("--api-server-count", "2", "--threads", "1")
LONG = 40


@pytest.fixture(scope="module")
def command(demo_model: Path) -> Iterator[Command]:
    with serve(demo_model, *TWO, "--max-stored-responses", "2") as command:
        yield command


@contextmanager
def clients_of(command: Command) -> Iterator[list[httpx.Client]]:
    """One client for each API process."""
    with ExitStack() as clients:
        yield [
            clients.enter_context(closing(client_of(command, pid))) for pid in sorted(children(command, API))
        ]


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def complete(client: httpx.Client, prompt: str, max_tokens: int = 8) -> str:
    response = client.post("/v1/completions", json={**BODY, "prompt": prompt, "max_tokens": max_tokens})
    assert response.status_code == 200, response.text
    text: str = response.json()["choices"][0]["text"]
    return text


class Stream:
    """An open stream of LONG tokens, read up to its first ones."""

    def __init__(self, client: httpx.Client, prompt: str, max_tokens: int = LONG) -> None:
        body = {**BODY, "prompt": prompt, "max_tokens": max_tokens, "stream": True}
        self._stack = ExitStack()
        self._response = self._stack.enter_context(client.stream("POST", "/v1/completions", json=body))
        assert self._response.status_code == 200
        self._lines = (line for line in self._response.iter_lines() if line)
        self._first = [next(self._lines) for _ in range(3)]

    def text(self) -> str:
        """All of it."""
        with self._stack:
            *chunks, done = [line.removeprefix("data: ") for line in (*self._first, *self._lines)]
        assert done == "[DONE]"
        return "".join(json.loads(chunk)["choices"][0]["text"] for chunk in chunks)


def nothing_is_held(command: Command) -> None:
    names = ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc")
    until(lambda: not any(command.metric(name) for name in names))
    until(lambda: command.http.get("/load").json() == {"server_load": 0})


def test_streams_through_both_say_the_same(command: Command) -> None:
    prompts = [f"Count to {number}: 1, 2," for number in range(3)]
    with clients_of(command) as (one, two), ThreadPoolExecutor(2) as pool:
        texts = [
            pool.submit(lambda client=client: [complete(client, prompt) for prompt in prompts])
            for client in (one, two)
        ]
        assert texts[0].result() == texts[1].result()


def test_any_process_tells_of_all(command: Command) -> None:
    """Metrics and open requests; and what is counted outlives the process that it happened in."""

    def ended(client: httpx.Client) -> dict[str, float]:
        lines = client.get("/metrics").text.splitlines()
        names = ("request_success_total", "time_to_first_token_seconds_count", "prompt_tokens_total")
        found = dict.fromkeys(names, 0.0)
        for line in lines:
            name = line.partition("{")[0].removeprefix("vllm:")
            if name in found:
                found[name] += float(line.split()[-1])
        return found

    with clients_of(command) as (one, two):
        until(lambda: ended(one) == ended(two))
        before = ended(one)
        for client in (one, two, two):
            complete(client, "One, two,", 2)
        wanted = {
            "request_success_total": before["request_success_total"] + 3,
            "time_to_first_token_seconds_count": before["time_to_first_token_seconds_count"] + 3,
            "prompt_tokens_total": before["prompt_tokens_total"] + 12,
        }
        for client in (one, two):
            until(lambda client=client: ended(client) == wanted)  # type: ignore[misc]
    with clients_of(command) as (one, two), closing(client_of(command, min(children(command, API)))) as third:
        streams = [Stream(one, "One"), Stream(two, "Two")]
        until(lambda: third.get("/load").json() == {"server_load": 2})
        for stream in streams:
            stream.text()
    nothing_is_held(command)


def of_processes(client: httpx.Client, name: str) -> dict[str, float]:
    """An `octavo_api_` series by the number of the process."""
    lines = client.get("/metrics").text.splitlines()
    found = (re.fullmatch(rf'octavo_api_{name}{{.*process="(\d+)".*}} (\S+)', line) for line in lines)
    return {match[1]: float(match[2]) for match in found if match}


def test_what_each_process_takes_is_told_by_any_of_them(command: Command) -> None:
    with clients_of(command) as clients:
        complete(clients[0], "One, two,", 2)
        for client in clients:
            for name in ("process_cpu_seconds_total", "process_resident_memory_bytes"):
                found = of_processes(client, name)
                assert set(found) == {"0", "1"}
                assert all(value > 0 for value in found.values())
        started = [of_processes(client, "process_start_time_seconds") for client in clients]
        assert started[0] == started[1]
        assert of_processes(clients[0], "process_cpu_wait_seconds_total").keys() == {"0", "1"}


def test_a_response_is_gone_on_with_through_the_other_process(command: Command) -> None:
    given: dict[str, Any] = {"input": "My name is Ada.", "max_output_tokens": 8, "temperature": 0}
    with clients_of(command) as (one, two):
        first = one.post("/v1/responses", json=given).json()
        given |= {"input": "What is my name?", "previous_response_id": first["id"]}
        answers = [client.post("/v1/responses", json=given).json() for client in (one, two)]
        assert [answer["status"] for answer in answers] == [answers[0]["status"]] * 2
        assert answers[0]["output"][0]["content"] == answers[1]["output"][0]["content"]
        # Two fit, in all, and the first one was used since.
        assert two.get(f"/v1/responses/{answers[0]['id']}").status_code == 404
        path = f"/v1/responses/{answers[1]['id']}"
        assert one.get(path).json() == answers[1]
        assert two.delete(path).status_code == 200
        assert one.get(path).status_code == 404


def test_the_live_view_shows_what_runs_through_the_other_process(command: Command) -> None:
    with clients_of(command) as (one, two), one.stream("GET", "/octavo/live") as live:
        events = (json.loads(line[6:]) for line in live.iter_lines() if line.startswith("data: "))
        assert next(events)["type"] == "hello"
        stream = Stream(two, "Once upon a time", 1500)
        for event in events:
            if event["type"] == "second" and event["generated"] and event["ttft"]:
                assert event["num_running"] == 1
                break
        del stream
    nothing_is_held(command)


def test_kill_9_of_the_engine_in_the_middle_of_streams_of_both(command: Command) -> None:
    prompts = [f"The story of the {each} begins" for each in ("fox", "owl", "elk", "bee")]
    with clients_of(command) as (one, two), clients_of(command) as (three, four):
        expected = [complete(one, prompt, LONG) for prompt in prompts]
        streams = [
            Stream(client, prompt) for client, prompt in zip((one, two, three, four), prompts, strict=True)
        ]
        [engine] = children(command, ENGINE)
        os.kill(engine, signal.SIGKILL)
        assert [stream.text() for stream in streams] == expected
        assert children(command, ENGINE) != {engine}
        assert "octavo_engine_restarts_total" in command.http.get("/metrics").text
        until(lambda: all(client.get("/health").status_code == 200 for client in (one, two)))
    nothing_is_held(command)


def test_kill_9_of_an_api_process_ends_its_requests_and_no_others(command: Command) -> None:
    before = children(command, API)
    with clients_of(command) as (one, two):
        expected = complete(two, "A long story:", LONG)
        lost, kept = Stream(one, "A lost story:", 1900), Stream(two, "A long story:")
        os.kill(min(before), signal.SIGKILL)
        with pytest.raises(httpx.TransportError):
            lost.text()
        assert kept.text() == expected
    nothing_is_held(command)
    until(lambda: len(children(command, API) - {min(before)}) == 2)
    [new] = children(command, API) - before
    with closing(client_of(command, new)) as client:
        assert complete(client, "A long story:", LONG) == expected
        assert of_processes(client, "process_cpu_seconds_total").keys() == {"0", "1"}
        text = client.get("/metrics").text
    assert re.search(r"^octavo_api_process_restarts_total{.*} 1.0$", text, re.MULTILINE)
    assert any("an API process left with signal 9; starting another one" in line for line in command.lines)


def test_the_bound_on_waiting_prompts_counts_those_of_all_and_sigterm_drains_all(demo_model: Path) -> None:
    with (
        serve(demo_model, *TWO, "--max-waiting", "1", "--max-num-seqs", "1") as command,
        ThreadPoolExecutor(1) as pool,
    ):
        with clients_of(command) as (one, two), clients_of(command) as (three, four):
            runs = Stream(one, "One", 100)
            waits = pool.submit(complete, two, "Two", 4)
            until(lambda: command.metric("num_requests_waiting") == 1)
            refused = three.post("/v1/completions", json={**BODY, "prompt": "Three"})
            assert refused.status_code == 429
            assert int(refused.headers["retry-after"]) >= 1
            command.process.send_signal(signal.SIGTERM)
            for client in (three, four):
                until(lambda client=client: client.get("/health").status_code == 503)  # type: ignore[misc]
            assert runs.text()
            assert waits.result(60)
        pids = children(command, API) | children(command, ENGINE)
        assert command.process.wait(60) == 0
        assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{command.url}/health")
