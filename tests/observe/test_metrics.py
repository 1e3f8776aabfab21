"""The metrics: vLLM's names, and the right numbers behind them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from support.live_server import LiveServer, live_server

import octavo
from octavo.engine.messages import OffloadStats, SchedulerStats, SequenceOutput, StepOutputs
from octavo.observe import metrics as metrics_module
from octavo.observe import request_timer
from octavo.observe.metrics import Metrics
from octavo.observe.request_timer import RequestTimer
from octavo.outputs import CompletionOutput, RequestMetrics, RequestOutput

VLLM_SAMPLES = {
    "vllm:num_requests_running",
    "vllm:num_requests_waiting",
    "vllm:kv_cache_usage_perc",
    "vllm:gpu_cache_usage_perc",
    "vllm:cpu_prefix_cache_hit_rate",
    "vllm:prefix_cache_queries_total",
    "vllm:prefix_cache_hits_total",
    "vllm:num_preemptions_total",
    "vllm:prompt_tokens_total",
    "vllm:generation_tokens_total",
    "vllm:request_success_total",
    "vllm:request_failure_total",
    "vllm:time_to_first_token_seconds_bucket",
    "vllm:inter_token_latency_seconds_bucket",
    "vllm:time_per_output_token_seconds_bucket",
    "vllm:request_time_per_output_token_seconds_bucket",
    "vllm:e2e_request_latency_seconds_bucket",
    "vllm:request_prompt_tokens_bucket",
    "vllm:request_generation_tokens_bucket",
    "vllm:iteration_tokens_total_bucket",
}


def samples(text: str) -> dict[tuple[str, str], float]:
    """Values by name and by finished_reason, bucket or tier, "" where there is none."""
    values = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            kind = next(
                (sample.labels[each] for each in ("finished_reason", "le", "tier") if each in sample.labels),
                "",
            )
            values[sample.name, kind] = sample.value
    return values


def values(metrics: Metrics) -> dict[str, float]:
    """The samples that have no bucket or reason, by name without the prefix."""
    found = samples(metrics.render().decode())
    return {name.removeprefix("vllm:"): value for (name, kind), value in found.items() if not kind}


class Clock:
    """A clock that a test moves, in seconds."""

    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    for module in (metrics_module, request_timer):
        monkeypatch.setattr(module, "time", clock)
    return clock


@pytest.fixture
def metrics() -> Metrics:
    return Metrics("m", 100)


def step(*outputs: SequenceOutput, **stats: Any) -> StepOutputs:
    return StepOutputs(list(outputs), SchedulerStats(**stats))


def test_the_names_are_vllm_s_and_there_from_the_start(metrics: Metrics) -> None:
    text = metrics.render().decode()
    assert {name for name, _ in samples(text)} >= VLLM_SAMPLES
    for line in text.splitlines():
        if line.startswith("vllm:"):
            assert 'model_name="m"' in line
            assert 'engine="0"' in line
    assert 'vllm:request_success_total{engine="0",finished_reason="stop",model_name="m"} 0.0' in text


def test_gauges_show_the_latest_step(metrics: Metrics) -> None:
    metrics.on_step(step(num_running=3, num_waiting=2, num_blocks=10, num_free_blocks=4))
    found = values(metrics)
    assert (found["num_requests_running"], found["num_requests_waiting"]) == (3, 2)
    assert found["kv_cache_usage_perc"] == found["gpu_cache_usage_perc"] == pytest.approx(0.6)
    metrics.on_step(step(num_blocks=10, num_free_blocks=10))
    assert values(metrics)["num_requests_running"] == 0
    assert values(metrics)["kv_cache_usage_perc"] == 0


def test_totals_go_on_when_the_engine_starts_again(metrics: Metrics) -> None:
    for queries, hits, preemptions in ((10, 4, 1), (30, 8, 1), (5, 1, 0), (7, 1, 2)):
        metrics.on_step(
            step(prefix_cache_queries=queries, prefix_cache_hits=hits, num_preemptions=preemptions)
        )
    found = values(metrics)
    assert found["prefix_cache_queries_total"] == 37
    assert found["prefix_cache_hits_total"] == 9
    assert found["num_preemptions_total"] == 3
    assert found["cpu_prefix_cache_hit_rate"] == pytest.approx(1 / 7)


def test_the_tiers_of_the_kv_cache(metrics: Metrics) -> None:
    assert values(metrics)["external_prefix_cache_hits_total"] == 0
    for hits in (32, 48, 16):  # The third engine is another process.
        offload = OffloadStats(
            queries=2 * hits, hits=hits, restored_from_disk=hits // 16, host_blocks=5, disk_bytes=7
        )
        metrics.on_step(step(offload=offload))
    metrics.on_step(step())
    found = values(metrics)
    assert found["external_prefix_cache_queries_total"] == 128
    assert found["external_prefix_cache_hits_total"] == 64
    text = samples(metrics.render().decode())
    assert text["octavo_kv_offload_restored_blocks_total", "disk"] == 4
    assert text["octavo_kv_offload_restored_blocks_total", "host"] == 0
    assert text["octavo_kv_offload_blocks", "host"] == 5
    assert text["octavo_kv_offload_disk_bytes", ""] == 7


def test_tokens_and_the_gaps_between_them(metrics: Metrics, clock: Clock) -> None:
    metrics.on_step(step(SequenceOutput("a", [1]), num_scheduled_tokens=20))
    metrics.on_step(step(num_scheduled_tokens=64))
    clock.now += 0.03
    metrics.on_step(step(SequenceOutput("a", [1]), SequenceOutput("b", [2]), num_scheduled_tokens=2))
    metrics.on_step(
        step(SequenceOutput("a", [1], "stop"), SequenceOutput("b", [1, 2]), num_scheduled_tokens=3)
    )
    metrics.on_step(step(SequenceOutput("a", [1])))  # Another request of that name: no gap.
    found = values(metrics)
    assert found["generation_tokens_total"] == 7
    assert found["inter_token_latency_seconds_count"] == 3
    assert found["time_per_output_token_seconds_count"] == 3
    assert found["inter_token_latency_seconds_sum"] == pytest.approx(0.03)
    assert found["iteration_tokens_total_count"] == 4
    assert found["iteration_tokens_total_sum"] == 89


def test_aborted_sequences_are_forgotten(metrics: Metrics) -> None:
    for number in range(10_000):
        metrics.on_step(step(SequenceOutput(str(number), [1]), num_running=1))
    assert len(metrics._last_output) < 100


def output(
    *completions: tuple[int, str | None], first: float | None = None, prompt: int = 5
) -> RequestOutput:
    """An update with so many new tokens and a finish reason for each completion."""
    return RequestOutput(
        "r",
        None,
        [0] * prompt,
        [CompletionOutput(i, "", [0] * n, finish_reason=why) for i, (n, why) in enumerate(completions)],
        finished=False,
        metrics=RequestMetrics(0.0, first),
    )


def test_a_stream_is_timed(metrics: Metrics, clock: Clock) -> None:
    timer = RequestTimer(metrics, 1)
    clock.now += 0.02
    timer.update(output((1, None)))
    clock.now += 0.03
    timer.update(output((2, "stop")))
    timer.end()
    found = values(metrics)
    assert found["e2e_request_latency_seconds_sum"] == pytest.approx(0.05)
    assert found["time_to_first_token_seconds_sum"] == pytest.approx(0.02)
    assert found["request_time_per_output_token_seconds_sum"] == pytest.approx(0.015)
    assert found["prompt_tokens_total"] == found["request_prompt_tokens_sum"] == 5
    assert found["request_generation_tokens_sum"] == 3
    assert samples(metrics.render().decode())["vllm:request_success_total", "stop"] == 1


def test_a_response_that_comes_whole_is_timed_by_the_engine(metrics: Metrics, clock: Clock) -> None:
    timer = RequestTimer(metrics, 2)
    first = clock.now + 0.01
    clock.now += 0.04
    timer.update(output((4, "stop"), (6, "length"), first=first))
    timer.end()
    found = values(metrics)
    assert found["time_to_first_token_seconds_sum"] == pytest.approx(0.01)
    assert found["request_generation_tokens_sum"] == 10
    reasons = samples(metrics.render().decode())
    assert reasons["vllm:request_success_total", "stop"] == 1
    assert reasons["vllm:request_success_total", "length"] == 1


def test_an_abort_and_a_failure(metrics: Metrics) -> None:
    timer = RequestTimer(metrics, 3)
    timer.update(output((1, "stop"), (1, None), (1, None)))
    timer.end()
    RequestTimer(metrics, 1).fail()
    found = samples(metrics.render().decode())
    assert found["vllm:request_success_total", "abort"] == 2
    assert found["vllm:request_failure_total", "stop"] == 1
    assert found["vllm:request_success_total", "error"] == 1
    assert found["vllm:e2e_request_latency_seconds_count", ""] == 0


def test_what_a_server_tells() -> None:
    with live_server() as server:
        body = {"prompt": "a prompt of thirty-two characters", "max_tokens": 9, "ignore_eos": True}
        for _ in range(2):
            assert server.post("/v1/completions", **body).status_code == 200
        assert read_stream(server, {**body, "stream": True})
        response = server.http.get("/metrics")
        assert response.headers["content-type"].startswith("text/plain")
        found = {name: value for (name, kind), value in samples(response.text).items() if not kind}
        reasons = samples(response.text)
    assert found["vllm:prompt_tokens_total"] == 3 * 33
    assert found["vllm:generation_tokens_total"] == 27
    assert found["vllm:prefix_cache_hits_total"] == 2 * 32
    assert found["vllm:prefix_cache_queries_total"] >= 3 * 32
    assert found["vllm:inter_token_latency_seconds_count"] == 24
    assert found["vllm:time_to_first_token_seconds_count"] == 3
    assert found["vllm:e2e_request_latency_seconds_count"] == 3
    assert found["vllm:num_requests_running"] == 0
    assert found["vllm:kv_cache_usage_perc"] == 0
    assert reasons["vllm:request_success_total", "length"] == 3
    assert found["process_resident_memory_bytes"] > 0
    assert found["octavo_api_process_resident_memory_bytes"] > 0
    assert found["octavo_api_process_restarts_total"] == 0
    assert all(each["process"] == "0" for each in labels_of(response.text, "octavo_api_process_open_fds"))


def test_what_prometheus_is_told_of_the_engine() -> None:
    with live_server() as server:
        text = server.http.get("/metrics").text
    [cache] = labels_of(text, "vllm:cache_config_info")
    assert cache["num_gpu_blocks"] == "128"
    assert cache["block_size"] == "16"
    assert cache["enable_prefix_caching"] == "True"
    assert cache["kv_cache_size_tokens"] == "2048"
    [settings] = labels_of(text, "octavo_engine_config_info")
    assert settings["max_model_len"] == "256"
    assert settings["max_num_batched_tokens"] == "64"
    assert labels_of(text, "octavo_build_info")[0]["version"] == octavo.__version__
    assert samples(text)["octavo_engine_up", ""] == 1
    assert samples(text)["octavo_engine_restarts_total", ""] == 0


def labels_of(text: str, name: str) -> list[dict[str, str]]:
    families = text_string_to_metric_families(text)
    return [sample.labels for family in families for sample in family.samples if sample.name == name]


def read_stream(server: LiveServer, body: dict[str, Any]) -> bytes:
    with server.http.stream("POST", "/v1/completions", json=body) as response:
        return response.read()


def test_a_directory_for_multiprocess_metrics_changes_nothing(tmp_path: Path):
    # As vLLM's users set it. Each process shows its own counts, not those of one that has ended.
    code = (
        "from octavo.observe.metrics import Metrics; metrics = Metrics('m', 100); "
        "metrics.prompt_began(5, 2); "
        "print(metrics.render().decode())"
    )
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    for _ in range(2):
        text = subprocess.check_output(
            [sys.executable, "-c", code], env=environment, cwd=Path(octavo.__file__).parents[1], text=True
        )
        assert 'vllm:prompt_tokens_total{engine="0",model_name="m"} 5.0' in text
