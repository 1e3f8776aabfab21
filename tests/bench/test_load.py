"""Loading a server: when requests go out, how answers are read, and what the figures come to."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest
from support.fake_engine import byte_tokenizer

from octavo.bench.dataset.conversation import Conversation, Turn
from octavo.bench.load.arrivals import arrival_times
from octavo.bench.load.config import LoadConfig
from octavo.bench.load.openai_api import OpenAIServer
from octavo.bench.load.outcome import Outcome
from octavo.bench.load.run import LoadRun, run_load, wait_until_ready
from octavo.bench.load.summary import lines, summarise

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@pytest.mark.parametrize("burstiness", [0.25, 1.0, 100.0])
def test_times_have_the_rate_and_the_burstiness_that_were_asked_for(burstiness: float):
    times = arrival_times(4000, 50.0, burstiness, seed=3)
    gaps = np.diff(times)
    assert times[0] == 0
    assert (gaps >= 0).all()
    assert gaps.mean() == pytest.approx(1 / 50, rel=0.01)
    # A gamma distribution of shape k has a coefficient of variation of 1 / sqrt(k).
    assert gaps.std() / gaps.mean() == pytest.approx(1 / math.sqrt(burstiness), rel=0.1)
    assert times == arrival_times(4000, 50.0, burstiness, seed=3)


def test_an_infinite_rate_sends_all_at_once():
    assert arrival_times(3, math.inf, 1.0, 0) == [0.0, 0.0, 0.0]


def talk_to(handler: Handler, do: Callable[[LoadConfig], Awaitable[Any]], **settings: Any) -> Any:
    """What `do` gives with a server on a free port whose connections `handler` serves."""

    async def run() -> Any:
        server = await asyncio.start_server(handler, "127.0.0.1", 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            return await do(LoadConfig(port=port, model="m", **settings))

    return asyncio.run(asyncio.wait_for(run(), 120))


def answering(*pieces: bytes) -> Handler:
    """Reads a request and writes the pieces, with a moment between them."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.01)
        writer.close()

    return handle


CONVERSATION = Conversation((Turn("abc", 3, 8),))


async def converse(config: LoadConfig) -> Outcome:
    [outcome] = await OpenAIServer(config, "key", byte_tokenizer()).converse(CONVERSATION, 0.0)
    return outcome


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"


def test_a_chunked_stream_cut_anywhere():
    body = (
        b'data: {"choices": [{"text": "a", "finish_reason": null}]}\n\n'
        b': a comment\n\ndata:{"choices": [{"text": "bc", "finish_reason": "length"}]}\n\n'
        b'data: {"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 2}}\n\ndata: [DONE]\n\n'
    )
    chunks = [body[i : i + 50] for i in range(0, len(body), 50)]
    wire = [HEAD + b"Transfer-Encoding: chunked\r\n\r\n"]
    wire += [b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks]
    outcome = talk_to(answering(*wire, b"0\r\n\r\n"), converse)
    assert outcome.ok
    assert (outcome.text, outcome.output_tokens, outcome.prompt_tokens) == ("abc", 2, 5)
    assert len(outcome.gaps) == 1
    assert outcome.ttft + sum(outcome.gaps) == pytest.approx(outcome.latency)
    assert outcome.tpot == pytest.approx(outcome.gaps[0])


def test_a_chat_stream_without_usage_is_counted_here():
    wire = (
        HEAD + b"\r\n",
        b'data: {"choices": [{"delta": {"role": "assistant", "content": ""}}]}\n\n',
        b'data: {"choices": [{"delta": {"content": "abc"}}]}\r\n\r\n',
        b'data: {"choices": [{"delta": {}, "finish_reason": "stop"}]}\n\n',
    )
    outcome = talk_to(answering(*wire), converse, backend="openai-chat")
    assert (outcome.text, outcome.output_tokens, outcome.prompt_tokens) == ("abc", 3, 3)
    assert outcome.ttft > 0.005  # the role is no token


@pytest.mark.parametrize(
    ("wire", "error"),
    [
        ([b'HTTP/1.1 429 Too Many\r\nContent-Length: 28\r\n\r\n{"error":{"message":"later"}}'], "HTTP 429"),
        ([b"HTTP/1.1 500 No\r\n\r\n<html>"], "HTTP 500: <html>"),
        ([HEAD + b'\r\ndata: {"error": {"message": "gone"}}\n\n'], "in the stream: gone"),
        ([HEAD + b"\r\ndata: nonsense\n\n"], "streamed no JSON"),
        ([HEAD + b"\r\ndata: [DONE]\n\n"], "no token"),
        ([HEAD + b"Content-Length: 100\r\n\r\ndata"], "the connection broke"),
        ([b"nonsense\r\n\r\n"], "the connection broke"),
        ([b""], "the connection"),
    ],
)
def test_what_goes_wrong_is_the_requests_error(wire: list[bytes], error: str):
    outcome = talk_to(answering(*wire), converse)
    assert not outcome.ok
    assert error in outcome.error


def test_requests_go_out_at_their_times_and_no_more_at_once_than_allowed():
    open_now, most, bodies = 0, 0, []
    three = asyncio.Barrier(3)

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal open_now, most
        head = await reader.readuntil(b"\r\n\r\n")
        bodies.append((await reader.read(1 << 16), head))
        open_now += 1
        most = max(most, open_now)
        await three.wait()
        await asyncio.sleep(0.02)
        open_now -= 1
        writer.write(HEAD + b'\r\ndata: {"choices": [{"text": "x"}]}\n\n')
        await writer.drain()
        writer.close()

    async def load(config: LoadConfig) -> LoadRun:
        server = OpenAIServer(config, "secret", byte_tokenizer())
        return await run_load(server, [CONVERSATION] * 9, config, lambda _: None)

    run = talk_to(handle, load, max_concurrency=3, ignore_eos=True, extra_body={"top_k": 1})
    assert len(run.outcomes) == 9
    assert all(outcome.ok for outcome in run.outcomes)
    assert most == 3
    assert run.seconds >= 0.06
    body, head = bodies[0]
    assert b"Bearer secret" in head
    assert all(part in body for part in (b'"ignore_eos": true', b'"top_k": 1', b'"max_tokens": 8'))


def test_a_server_that_never_answers_ends_the_wait():
    told: list[str] = []

    async def wait(config: LoadConfig) -> None:
        server = OpenAIServer(config, None, byte_tokenizer())
        await wait_until_ready(server, CONVERSATION, 0.5, told.append)

    with pytest.raises(ValueError, match="the first request failed: HTTP 503"):
        talk_to(answering(b"HTTP/1.1 503 Wait\r\nContent-Length: 0\r\n\r\n"), wait)
    with pytest.raises(ValueError, match="the first request failed: HTTP 404: no model"):
        talk_to(answering(b'HTTP/1.1 404 No\r\n\r\n{"error": {"message": "no model"}}'), wait)
    [reason] = told  # once, and not for what waiting does not help
    assert reason.startswith("HTTP 503")


def outcomes() -> list[Outcome]:
    """Three that were answered, one of a single token, and one that was not."""
    return [
        Outcome(10, start=0.0, ttft=0.1, latency=0.5, gaps=[0.1, 0.3], output_tokens=3),
        Outcome(20, start=0.2, ttft=0.2, latency=1.2, gaps=[0.5, 0.5], output_tokens=3),
        Outcome(30, start=1.5, ttft=0.4, latency=0.4, output_tokens=1),
        Outcome(99, error="HTTP 500"),
    ]


def test_the_figures_of_a_run():
    config = LoadConfig(
        percentile_metrics="ttft,tpot,itl,e2el",
        metric_percentiles="50,99.9",
        goodput=("ttft:250", "tpot:300"),
    )
    result = summarise(LoadRun(outcomes(), 2.0), config)
    assert (result["completed"], result["failed"]) == (3, 1)
    assert (result["total_input_tokens"], result["total_output_tokens"]) == (60, 7)
    assert (result["request_throughput"], result["output_throughput"]) == (1.5, 3.5)
    assert result["total_token_throughput"] == 33.5
    assert result["request_goodput"] == 0.5  # the first alone: the second has tpot 500, the third ttft 400
    assert result["max_concurrent_requests"] == 2
    assert result["max_output_tokens_per_s"] == 5  # tokens at 0.1, 0.2, 0.5, 0.4, 0.9
    assert result["mean_ttft_ms"] == pytest.approx(700 / 3)
    assert result["median_tpot_ms"] == pytest.approx(350)
    assert result["p99.9_itl_ms"] == pytest.approx(np.percentile([100, 300, 500, 500], 99.9))
    assert result["std_e2el_ms"] == pytest.approx(np.std([500, 1200, 400]))
    text = "\n".join(lines(result, config))
    assert "P99.9 ITL (ms):" in text
    assert "Request goodput (req/s):                 0.50" in text


def test_a_run_in_which_nothing_succeeded_has_figures():
    result = summarise(LoadRun([Outcome(1, error="no")], 1.0), LoadConfig())
    assert (result["completed"], result["failed"], result["mean_ttft_ms"]) == (0, 1, 0.0)
    assert result["request_goodput"] is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"percentile_metrics": "ttft,tps"},
            r"--percentile-metrics\) knows ttft, tpot, itl, e2el; got 'tps'",
        ),
        ({"metric_percentiles": "50,x"}, r"--metric-percentiles\) must be numbers from 0 to 100"),
        ({"metric_percentiles": "101"}, "from 0 to 100"),
        ({"goodput": ("itl:5",)}, "takes pairs such as ttft:200"),
        ({"goodput": ("ttft:-5",)}, "takes pairs"),
        ({"goodput": ("ttft",)}, "takes pairs"),
        ({"metadata": ("a",)}, "KEY=VALUE"),
        ({"request_rate": 0.0}, "--request-rate"),
    ],
)
def test_settings_that_can_not_be(settings: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        LoadConfig(**settings)


def test_an_address_that_is_none():
    with pytest.raises(ValueError, match="must begin with http"):
        _ = LoadConfig(base_url="localhost:8000").url
    assert LoadConfig(base_url="https://host/v1/").url == "https://host"
