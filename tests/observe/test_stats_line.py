"""The periodic line: rates since the line before, silence when idle."""

from __future__ import annotations

import asyncio
import logging
from types import SimpleNamespace

import pytest

from octavo.engine.messages import SchedulerStats, SequenceOutput, StepOutputs
from octavo.observe import stats_line
from octavo.observe.metrics import Metrics
from octavo.observe.stats_line import StatsLine

BUSY = SchedulerStats(
    num_running=2,
    num_waiting=1,
    num_blocks=100,
    num_free_blocks=75,
    num_preemptions=3,
    prefix_cache_queries=80,
    prefix_cache_hits=20,
    num_scheduled_tokens=41,
)


def test_rates_since_the_line_before() -> None:
    metrics = Metrics("m", 100)
    line = StatsLine(metrics)
    line.next(0.0)
    metrics.on_step(StepOutputs([SequenceOutput("a", [1]), SequenceOutput("b", [1])], BUSY))
    metrics.on_step(StepOutputs([SequenceOutput("a", [1])], BUSY))
    assert line.next(10.0) == (
        "Engine 000: Avg prompt throughput: 8.1 tokens/s, Avg generation throughput: 0.3 tokens/s, "
        "Running: 2 reqs, Waiting: 1 reqs, Preemptions: 3, GPU KV cache usage: 25.0%, "
        "Prefix cache hit rate: 25.0%"
    )
    second = line.next(20.0)
    assert second is not None
    assert "generation throughput: 0.0 tokens/s, Running: 2" in second


def test_an_idle_server_says_so_once() -> None:
    metrics = Metrics("m", 100)
    line = StatsLine(metrics)
    assert line.next(1.0) is None
    metrics.on_step(StepOutputs([SequenceOutput("a", [1], "stop")], SchedulerStats(num_scheduled_tokens=4)))
    assert line.next(2.0) is not None
    last = line.next(3.0)
    assert last is not None
    assert "prompt throughput: 0.0" in last
    assert line.next(4.0) is None
    assert line.next(5.0) is None


def test_it_is_logged_at_intervals(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    metrics = Metrics("m", 100)
    metrics.on_step(StepOutputs([], BUSY))
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 5:
            raise asyncio.CancelledError

    monkeypatch.setattr(stats_line, "asyncio", SimpleNamespace(sleep=sleep))
    with caplog.at_level(logging.INFO, "octavo"), pytest.raises(asyncio.CancelledError):
        asyncio.run(StatsLine(metrics).run(10.0))
    assert slept == [10.0] * 5
    assert sum("Engine 000:" in message for message in caplog.messages) == 4
