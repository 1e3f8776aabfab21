"""Each check on metrics that were made up for it: when it speaks, when it does not, and in whose words."""

from __future__ import annotations

import pytest

from octavo.doctor.examine import diagnose
from octavo.doctor.finding import Finding
from octavo.doctor.observation import Observation
from octavo.doctor.scrape import Scrape


def look(*texts: str, healthy: bool = True, seconds: float = 0.0) -> dict[str, Finding]:
    found = diagnose(Observation([Scrape.parse(text) for text in texts], healthy, seconds))
    return {finding.name: finding for finding in found}


def histogram(name: str, buckets: dict[float, int], total: float = 1.0) -> str:
    """`buckets` are cumulative; the last count is that of all."""
    lines = [f'{name}_bucket{{le="{bound}"}} {count}' for bound, count in buckets.items()]
    count = list(buckets.values())[-1]
    end = f'{name}_bucket{{le="+Inf"}} {count}\n{name}_sum {total}\n{name}_count {count}\n'
    return f"# TYPE {name} histogram\n" + "\n".join(lines) + f"\n{end}"


def info(**settings: object) -> str:
    labels = ",".join(f'{name}="{value}"' for name, value in settings.items())
    return f"octavo_engine_config_info{{{labels}}} 1\n"


def test_nothing_at_all_is_nothing_to_find() -> None:
    assert look("") == {}


def test_an_engine_that_is_down() -> None:
    found = look(info(gpu_memory_utilization=0.9), healthy=False)
    assert found["engine-down"].severity == "critical"
    assert "lower --gpu-memory-utilization from 0.9 to 0.80" in found["engine-down"].change


@pytest.mark.parametrize(("available", "speaks"), [(1e8, True), (5e9, False)])
def test_little_memory(available: float, speaks: bool) -> None:
    text = f"octavo_memory_limit_bytes 16e9\noctavo_memory_available_bytes {available}\n"
    assert ("little-memory" in look(text)) == speaks


def test_a_queue_for_want_of_replicas() -> None:
    text = "vllm:num_requests_waiting 30\nvllm:num_requests_running 40\nvllm:kv_cache_usage_perc 0.4\n"
    found = look(text + info(max_num_seqs=256))
    assert found["queue"].change.startswith("add replicas")
    assert found["queue"].evidence == "30 requests wait while 40 run"
    full = look(text.replace("0.4", "0.9") + info(max_num_seqs=256, gpu_memory_utilization=0.8))
    assert "raise --gpu-memory-utilization from 0.8 to 0.90" in full["queue-for-kv-cache"].change
    assert "queue" not in full


def test_a_wait_that_is_over_counts_as_well() -> None:
    waits = histogram("vllm:request_queue_time_seconds", {1.0: 0, 5.0: 10}, 30.0)
    text = waits + histogram("vllm:e2e_request_latency_seconds", {5.0: 10}, 40.0)
    assert "the mean wait is 3.00 s of 4.00 s since it started" in look(text)["queue"].evidence


@pytest.mark.parametrize(("hits", "speaks"), [(100, True), (40_000, False)])
def test_a_prefix_cache_that_misses_is_only_noted(hits: int, speaks: bool) -> None:
    text = f"vllm:prefix_cache_queries_total 90000\nvllm:prefix_cache_hits_total {hits}\n"
    found = look(text)
    assert ("prefix-cache-misses" in found) == speaks
    assert not any(finding.is_problem for finding in found.values())


def test_prompts_that_make_steps_long() -> None:
    text = histogram("vllm:inter_token_latency_seconds", {0.05: 50, 0.4: 100})
    text += histogram("vllm:iteration_tokens_total", {256.0: 10, 512.0: 100})
    text += histogram("octavo_step_seconds", {0.1: 10, 0.4: 100})
    found = look(text + info(max_num_batched_tokens=512))
    assert found["long-steps"].change == "lower --max-num-batched-tokens from 512 to 128, or set --target-itl"
    assert look(text + info(max_num_batched_tokens=8192)) == {}


def test_chunked_prefill_off_is_a_problem_only_with_long_prompts_or_spikes() -> None:
    off = info(enable_chunked_prefill=False)
    assert not look(off)["chunked-prefill-off"].is_problem
    spikes = histogram("vllm:inter_token_latency_seconds", {0.01: 90, 1.0: 100})
    assert look(off + spikes)["chunked-prefill-off"].is_problem
    long = histogram("vllm:request_prompt_tokens", {500.0: 1, 5000.0: 100})
    assert look(off + long)["chunked-prefill-off"].is_problem


def test_portable_kernels() -> None:
    assert "portable-kernels" in look('octavo_build_info{isa="portable"} 1')
    assert look('octavo_build_info{isa="avx2"} 1') == {}


def test_few_threads() -> None:
    assert "CPUs stay idle" in look(info(threads=2, cpus=8))["threads"].cause
    assert look(info(threads=8, cpus=8)) == look(info(threads="None", cpus=8)) == {}


def test_one_request_at_a_time_is_noted() -> None:
    alone = histogram("octavo_step_sequences", {1.0: 500}, 500.0)
    assert look(alone)["low-concurrency"].severity == "note"
    assert look(alone + "vllm:num_requests_waiting 3\n")["queue"]
    assert look(histogram("octavo_step_sequences", {8.0: 500}, 4000.0)) == {}


def test_errors_and_clients_that_leave() -> None:
    text = "# TYPE vllm:request_success counter\n"
    for reason, count in (("stop", 60), ("abort", 38), ("error", 2)):
        text += f'vllm:request_success_total{{finished_reason="{reason}"}} {count}\n'
    found = look(text)
    assert found["errors"].evidence == "2 of 100 requests failed since it started"
    assert found["aborts"].evidence == "clients gave up 38 of 100 requests since it started"
    assert next(iter(found)) == "errors"


def test_what_is_over_is_not_looked_at_when_something_happens() -> None:
    before = "vllm:num_preemptions_total 50\n" + histogram("vllm:iteration_tokens_total", {8.0: 100})
    after = "vllm:num_preemptions_total 50\n" + histogram("vllm:iteration_tokens_total", {8.0: 200})
    assert look(before, after) == {}
    found = look(before, before)["preemptions"]
    assert found.evidence == "50 preemptions for 0 requests since it started"


def test_a_vllm_server_s_metrics_will_do() -> None:
    labels = 'model_name="m",engine="0"'
    text = f"""vllm:num_requests_running{{{labels}}} 200
vllm:num_requests_waiting{{{labels}}} 90
vllm:kv_cache_usage_perc{{{labels}}} 0.99
vllm:num_preemptions_total{{{labels}}} 500
vllm:request_success_total{{{labels},finished_reason="stop"}} 1000
vllm:cache_config_info{{block_size="16",enable_prefix_caching="True",gpu_memory_utilization="0.8"}} 1
"""
    found = look(text)
    assert set(found) == {"preemptions", "queue-for-kv-cache"}
    assert "raise --gpu-memory-utilization from 0.8 to 0.90" in found["preemptions"].change


def api_processes(cpu: list[float], step_seconds: float, steps: int, **settings: object) -> str:
    lines = [
        f'octavo_api_process_cpu_seconds_total{{process="{number}"}} {seconds}'
        for number, seconds in enumerate(cpu)
    ]
    text = "# TYPE octavo_api_process_cpu_seconds counter\n" + "\n".join(lines) + "\n"
    text += histogram("octavo_step_seconds", {0.1: steps}, step_seconds)
    text += histogram("vllm:iteration_tokens_total", {16.0: steps})
    return text + info(**settings)


@pytest.mark.parametrize(
    ("cpu", "step_seconds", "change"),
    [
        ([12.6], 2.0, "raise --api-server-count from 1 to 2"),
        ([10.1, 12.6], 2.0, "raise --api-server-count from 2 to 3"),
        ([10.0] * 7 + [12.6], 2.0, "add CPUs, and raise --api-server-count from 8; or add replicas"),
        ([12.6], 9.9, None),  # The engine computes all the time: another process would not make it faster.
        ([11.8], 2.0, None),
    ],
)
def test_an_api_process_that_can_do_no_more(
    cpu: list[float], step_seconds: float, change: str | None
) -> None:
    before = api_processes([9.9] * len(cpu), 1.9, 10, cpus=8, threads=8)
    after = api_processes(cpu, step_seconds if step_seconds == 2.0 else 1.9 + 2.6, 20, cpus=8, threads=8)
    finding = look(before, after, seconds=2.8).get("api-process-saturated")
    assert (finding and finding.change) == change
    if finding:
        assert finding.evidence == (
            f"API process {len(cpu) - 1} had something to do for 96% of the time, and a CPU to do "
            "it on for 96%; the engine computed for 4%"
        )
    assert "api-process-saturated" not in look(before, after)  # how long it took is not known


def test_one_that_waits_for_a_cpu_is_as_late() -> None:
    wait = 'octavo_api_process_cpu_wait_seconds_total{process="0"} '
    before = api_processes([9.9], 1.9, 10, cpus=8) + wait + "1.0\n"
    found = look(before, api_processes([10.2], 2.0, 20, cpus=8) + wait + "1.5\n", seconds=0.8)
    assert "for 100% of the time, and a CPU to do it on for 37%" in found["api-process-saturated"].evidence
    assert found["api-process-saturated"].change.startswith("add CPUs, and raise --api-server-count from 1")


def test_a_process_that_is_replaced_is_not_a_server_that_started_anew() -> None:
    before = api_processes([50.0, 50.0], 1.9, 10)
    after = api_processes([0.5, 52.7], 2.0, 20) + "octavo_api_process_restarts_total 1\n"
    found = look(before, after, seconds=2.8)
    assert "API process 1 had something to do for 96%" in found["api-process-saturated"].evidence
    assert found["api-process-restarts"].severity == "critical"
    assert found["api-process-restarts"].evidence.startswith("an API process was replaced 1 times")
