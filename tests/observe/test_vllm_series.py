"""What vLLM V1 exports, as a dashboard sees it: names, kinds, labels and every bound of every histogram."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from support.live_server import LiveServer, live_server

TOKEN_SECONDS = [
    0.01,
    0.025,
    0.05,
    0.075,
    0.1,
    0.15,
    0.2,
    0.3,
    0.4,
    0.5,
    0.75,
    1,
    2.5,
    5,
    7.5,
    10,
    20,
    40,
    80,
]
REQUEST_SECONDS = [
    *(0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60),
    *(120, 240, 480, 960, 1920, 7680),
]
UP_TO_256_TOKENS = [1, 2, 5, 10, 20, 50, 100, 200]

GAUGES = {
    "num_requests_running": {},
    "num_requests_waiting": {},
    "num_requests_waiting_by_reason": {"reason": {"capacity", "deferred"}},
    "engine_sleep_state": {"sleep_state": {"awake", "weights_offloaded", "discard_all"}},
    "kv_cache_usage_perc": {},
    "gpu_cache_usage_perc": {},
    "gpu_prefix_cache_hit_rate": {},
    "cpu_prefix_cache_hit_rate": {},
}
COUNTERS = {
    "prefix_cache_queries": {},
    "prefix_cache_hits": {},
    "gpu_prefix_cache_queries": {},
    "gpu_prefix_cache_hits": {},
    "external_prefix_cache_queries": {},
    "external_prefix_cache_hits": {},
    "mm_cache_queries": {},
    "mm_cache_hits": {},
    "num_preemptions": {},
    "prompt_tokens": {},
    "prompt_tokens_by_source": {"source": {"local_compute", "local_cache_hit", "external_kv_transfer"}},
    "prompt_tokens_cached": {},
    "prompt_tokens_recomputed": {},
    "generation_tokens": {},
    "request_success": {"finished_reason": {"stop", "length", "abort", "error", "timeout"}},
}
HISTOGRAMS = {
    "iteration_tokens_total": [1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384],
    "time_to_first_token_seconds": [
        *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75),
        *(1, 2.5, 5, 7.5, 10, 20, 40, 80, 160, 640, 2560),
    ],
    "inter_token_latency_seconds": TOKEN_SECONDS,
    "time_per_output_token_seconds": TOKEN_SECONDS,
    "request_time_per_output_token_seconds": TOKEN_SECONDS,
    "e2e_request_latency_seconds": REQUEST_SECONDS,
    "request_queue_time_seconds": REQUEST_SECONDS,
    "request_prefill_time_seconds": REQUEST_SECONDS,
    "request_decode_time_seconds": REQUEST_SECONDS,
    "request_inference_time_seconds": REQUEST_SECONDS,
    "request_prompt_tokens": UP_TO_256_TOKENS,
    "request_generation_tokens": UP_TO_256_TOKENS,
    "request_max_num_generation_tokens": UP_TO_256_TOKENS,
    "request_params_max_tokens": UP_TO_256_TOKENS,
    "request_prefill_kv_computed_tokens": UP_TO_256_TOKENS,
    "request_params_n": [1, 2, 5, 10, 20],
}


@pytest.fixture(scope="module")
def server() -> Iterator[LiveServer]:
    with live_server() as server:
        yield server


def families(server: LiveServer) -> dict[str, Metric]:
    text = server.http.get("/metrics").text
    return {family.name: family for family in text_string_to_metric_families(text)}


def value(found: dict[str, Metric], name: str, **labels: str) -> float:
    """The one sample of that name with those labels."""
    matching = [
        sample.value
        for family in found.values()
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    ]
    assert len(matching) == 1, name
    return matching[0]


def test_gauges_and_counters(server: LiveServer) -> None:
    found = families(server)
    for kind, expected in (("gauge", GAUGES), ("counter", COUNTERS)):
        for name, extra in expected.items():
            family = found[f"vllm:{name}"]
            assert family.type == kind
            samples = [sample for sample in family.samples if not sample.name.endswith("_created")]
            for label, values in extra.items():
                assert {sample.labels[label] for sample in samples} == values
            for sample in samples:
                assert set(sample.labels) == {"model_name", "engine", *extra}
                assert (sample.labels["model_name"], sample.labels["engine"]) == ("hash", "0")


def test_histograms_have_every_bound_of_vllm_s(server: LiveServer) -> None:
    found = families(server)
    for name, bounds in HISTOGRAMS.items():
        family = found[f"vllm:{name}"]
        assert family.type == "histogram"
        buckets = [sample for sample in family.samples if sample.name.endswith("_bucket")]
        ours = [float(sample.labels["le"]) for sample in buckets]
        assert set(bounds) <= set(ours), name
        assert ours == sorted(ours)
        assert ours[-1] == float("inf")


def test_the_plain_name_for_metrics_adapters(server: LiveServer) -> None:
    assert families(server)["vllm_num_requests_waiting"].type == "gauge"


def test_other_names_have_the_same_samples(server: LiveServer) -> None:
    server.post("/v1/completions", prompt="a prompt", max_tokens=5, ignore_eos=True)
    found = families(server)
    for name, other in (
        ("inter_token_latency_seconds", "time_per_output_token_seconds"),
        ("prefix_cache_queries", "gpu_prefix_cache_queries"),
    ):
        original = [(s.labels, s.value) for s in found[f"vllm:{name}"].samples]
        assert [(s.labels, s.value) for s in found[f"vllm:{other}"].samples] == original
        assert sum(value for _, value in original) > 0


def test_failures_have_the_labels_to_be_divided_by_successes(server: LiveServer) -> None:
    """The usual error-rate query divides the two without `sum`: each needs a partner of its labels."""
    found = families(server)
    failures = [s.labels for s in found["vllm:request_failure"].samples if s.name.endswith("_total")]
    successes = [s.labels for s in found["vllm:request_success"].samples if s.name.endswith("_total")]
    assert failures
    assert all(labels in successes for labels in failures)


def test_a_request_s_phases_add_up(server: LiveServer) -> None:
    before = families(server)
    body = {"prompt": "some prompt of thirty-two letters", "max_tokens": 20, "ignore_eos": True}
    assert server.post("/v1/completions", **body).status_code == 200
    assert server.post("/v1/completions", **body, n=3).status_code == 200
    found = families(server)

    def grown(name: str, **labels: str) -> float:
        return value(found, f"vllm:{name}", **labels) - value(before, f"vllm:{name}", **labels)

    for phase in ("queue", "prefill", "decode", "inference"):
        assert grown(f"request_{phase}_time_seconds_count") == 2
    phases = [grown(f"request_{phase}_time_seconds_sum") for phase in ("queue", "prefill", "decode")]
    assert min(phases) >= 0
    assert sum(phases) == pytest.approx(grown("e2e_request_latency_seconds_sum"), abs=0.002)
    assert phases[1] + phases[2] == pytest.approx(grown("request_inference_time_seconds_sum"), abs=1e-6)

    assert grown("request_params_n_sum") == 4
    assert grown("request_params_max_tokens_sum") == 40
    assert grown("request_max_num_generation_tokens_sum") == 40
    assert grown("request_generation_tokens_sum") == 80
    prompt = grown("prompt_tokens_total")
    cached = grown("prompt_tokens_cached_total")
    assert cached == 32
    assert grown("prompt_tokens_by_source_total", source="local_compute") == prompt - cached
    assert grown("prompt_tokens_by_source_total", source="local_cache_hit") == cached
    assert grown("request_prefill_kv_computed_tokens_sum") == prompt - cached


def test_waiting_is_in_the_queue_time() -> None:
    """Nineteen requests for sixteen places: the last have to wait for the first to end."""
    with live_server() as server, ThreadPoolExecutor() as threads:
        body = {"prompt": [f"prompt {number}" for number in range(19)], "max_tokens": 10, "ignore_eos": True}
        server.hold()
        answer = threads.submit(server.post, "/v1/completions", **body)
        server.wait_for_requests(19)
        server.run_steps(8)
        time.sleep(1.1)
        server.release()
        assert answer.result().status_code == 200
        found = families(server)
    assert value(found, "vllm:request_queue_time_seconds_count") == 19
    waited = value(found, "vllm:request_queue_time_seconds_bucket", le="1.0")
    assert waited == 16
    assert value(found, "octavo_step_sequences_bucket", le="16.0") == value(
        found, "octavo_step_sequences_count"
    )
    assert value(found, "octavo_step_seconds_count") > 10
