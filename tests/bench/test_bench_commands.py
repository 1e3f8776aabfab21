"""The benchmarks as commands: against a server of octavo's, and the guide's own command lines."""

from __future__ import annotations

import json
import re
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.live_server import MODEL, LiveServer, live_server

import octavo
from octavo.cli.main import main

BENCHMARKS = Path(octavo.__file__).parents[1] / "benchmarks"
VLLM_KEYS = [
    "date",
    "backend",
    "model_id",
    "tokenizer_id",
    "num_prompts",
    "request_rate",
    "burstiness",
    "max_concurrency",
    "duration",
    "completed",
    "failed",
    "total_input_tokens",
    "total_output_tokens",
    "request_throughput",
    "request_goodput",
    "output_throughput",
    "total_token_throughput",
    "max_output_tokens_per_s",
    "max_concurrent_requests",
    "mean_ttft_ms",
    "median_ttft_ms",
    "std_ttft_ms",
    "p50_ttft_ms",
    "p99_ttft_ms",
    "mean_tpot_ms",
    "p99_tpot_ms",
    "mean_itl_ms",
    "p99_itl_ms",
    "mean_e2el_ms",
    "p99_e2el_ms",
]
DETAILS = ["input_lens", "output_lens", "ttfts", "itls", "generated_texts", "errors"]
SMALL = ("--max-model-len", "512", "--kv-cache-memory-bytes", "64MiB")


@pytest.fixture(scope="module")
def server() -> Iterator[LiveServer]:
    with live_server() as running:
        yield running


@pytest.fixture(autouse=True)
def _tokenizer(demo_model: Path) -> None:
    """The demo model's tokenizer is the default."""


def test_serve_measures_what_the_server_counted(
    server: LiveServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    before = server.metric("generation_tokens_total")
    arguments = f"""bench serve --base-url {server.url}/v1 --num-prompts 12 --random-input-len 8
        --random-output-len 5 --request-rate 200 --burstiness 0.5 --max-concurrency 4 --ignore-eos
        --ready-check-timeout-sec 0 --percentile-metrics ttft,tpot,itl,e2el --metric-percentiles 50,99
        --goodput ttft:20000 tpot:20000 --save-result --save-detailed --result-filename run.json
        --metadata build=7""".split()
    assert main([*arguments, "--result-dir", str(tmp_path)]) == 0
    result = json.loads((tmp_path / "run.json").read_text())
    assert set(result) >= {*VLLM_KEYS, *DETAILS}
    assert (result["completed"], result["failed"], result["model_id"], result["build"]) == (12, 0, MODEL, "7")
    assert result["output_lens"] == [5] * 12
    assert result["total_output_tokens"] == server.metric("generation_tokens_total") - before
    assert result["request_goodput"] == pytest.approx(result["request_throughput"])
    assert result["max_concurrent_requests"] <= 4
    printed = capsys.readouterr().out
    assert "Successful requests:                     12" in printed
    assert f"Mean TTFT (ms):                          {result['mean_ttft_ms']:.2f}" in printed


def test_a_sweep_of_conversations_with_a_page_of_its_own(
    server: LiveServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    pytest.importorskip("matplotlib")
    page, plot = tmp_path / "page.html", tmp_path / "plot.png"
    arguments = f"""bench sweep --base-url {server.url} --backend openai-chat --max-concurrency 1 3
        --num-prompts 4 --num-turns 2 --input-len 4 --output-len 3 --report {page} --plot {plot}
        --save-result --result-filename run.json --result-dir {tmp_path}""".split()
    assert main(arguments) == 0
    assert "3 at a time" in capsys.readouterr().out
    results = [json.loads((tmp_path / f"run-{number}.json").read_text()) for number in (1, 2)]
    assert [result["max_concurrency"] for result in results] == [1, 3]
    assert [result["completed"] for result in results] == [8, 8]
    assert not {*DETAILS} & set(results[0])
    assert plot.read_bytes().startswith(b"\x89PNG")
    text = page.read_text()
    # Namespaces are names; nothing else may name a host, nor may anything be loaded.
    hosts = set(re.findall(r"https?://[\w.:]+", text)) - {"http://www.w3.org", server.url}
    assert not hosts
    assert not re.findall(r"(?:src|href)=[\"'](?!#)", text)
    assert "<svg" in text
    assert "output_throughput" in text


def test_a_run_has_plots_too(server: LiveServer, tmp_path: Path):
    pytest.importorskip("matplotlib")
    plot = tmp_path / "plot.svg"
    arguments = (
        f"bench serve --base-url {server.url} --num-prompts 3 --input-len 4 --output-len 3 --plot {plot}"
    )
    assert main(arguments.split()) == 0
    assert "<svg" in plot.read_text()


def test_plots_without_matplotlib_are_refused_before_anything_runs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["bench", "serve", "--port", "1", "--report", "x.html"]) == 1
    assert "pip install 'octavo[bench]'" in capsys.readouterr().err


def test_refused_requests_are_counted_and_named(server: LiveServer, capsys: pytest.CaptureFixture[str]):
    arguments = f"bench serve --base-url {server.url} --model none --num-prompts 2 --input-len 4"
    assert main([*arguments.split(), "--ready-check-timeout-sec", "0"]) == 1
    captured = capsys.readouterr()
    assert "Failed requests:                         2" in captured.out
    assert "2 requests failed: HTTP 404: " in captured.err


def test_a_sweep_needs_something_to_sweep(capsys: pytest.CaptureFixture[str]):
    assert main(["bench", "sweep"]) == 1
    assert "--request-rate or --max-concurrency must be given" in capsys.readouterr().err


def script(name: str, *arguments: str) -> int:
    """Run a script of benchmarks/; returns its exit code."""
    old = sys.argv
    sys.argv = [name, *arguments]
    try:
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(BENCHMARKS / name), run_name="__main__")
    finally:
        sys.argv = old
    assert isinstance(ended.value.code, int)
    return ended.value.code


def test_the_guides_throughput_command(demo_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    result = tmp_path / "result.json"
    lengths = ("--input-len", "32", "--output-len", "4", "--num-prompts", "6")
    model = ("--model", str(demo_model))
    assert script("benchmark_throughput.py", *model, *lengths, *SMALL, "--output-json", str(result)) == 0
    figures = json.loads(result.read_text())
    assert (figures["num_requests"], figures["total_num_tokens"]) == (6, 6 * 36)
    assert figures["tokens_per_second"] == pytest.approx(6 * 36 / figures["elapsed_time"])
    printed = capsys.readouterr().out
    assert re.search(
        r"^Throughput: [\d.]+ requests/s, [\d.]+ total tokens/s, [\d.]+ output tokens/s$", printed, re.M
    )
    assert "Total num prompt tokens:  192" in printed


def test_the_guides_latency_command(demo_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    result = tmp_path / "result.json"
    lengths = ("--input-len", "32", "--output-len", "4", "--batch-size", "1")
    iterations = ("--num-iters-warmup", "1", "--num-iters", "3", "--output-json", str(result))
    assert script("benchmark_latency.py", "--model", str(demo_model), *lengths, *SMALL, *iterations) == 0
    figures = json.loads(result.read_text())
    assert len(figures["latencies"]) == 3
    assert figures["avg_latency"] == pytest.approx(sum(figures["latencies"]) / 3)
    assert set(figures["percentiles"]) == {"10", "25", "50", "75", "90", "99"}
    assert "99% percentile latency: " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("benchmark_throughput.py", "--input-len 512 --output-len 128 --num-prompts 1000"),
        ("benchmark_latency.py", "--input-len 512 --output-len 128 --batch-size 1"),
    ],
)
def test_the_guides_commands_word_for_word_need_only_the_model(
    name: str, arguments: str, capsys: pytest.CaptureFixture[str]
):
    model = "meta-llama/Llama-3.1-8B-Instruct"
    assert script(name, "--model", model, *arguments.split()) == 1
    assert f"model (--model): '{model}' is not there" in capsys.readouterr().err
