"""What a run comes to, under the names of vLLM's result files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from octavo.bench.load.config import METRICS, LoadConfig
from octavo.bench.load.outcome import Outcome
from octavo.bench.load.run import LoadRun

DETAILS = (
    "input_lens",
    "output_lens",
    "ttfts",
    "itls",
    "latencies",
    "start_times",
    "generated_texts",
    "errors",
)
"""Keys of a result that have a value for each request."""
WIDTH = 50


def summarise(run: LoadRun, config: LoadConfig) -> dict[str, Any]:
    """The result: counts, rates, latencies in milliseconds, and each request's own figures."""
    good = [outcome for outcome in run.outcomes if outcome.ok]
    num_input, num_output = sum(o.prompt_tokens for o in good), sum(o.output_tokens for o in good)
    targets = config.targets
    result: dict[str, Any] = {
        "duration": run.seconds,
        "completed": len(good),
        "failed": len(run.outcomes) - len(good),
        "total_input_tokens": num_input,
        "total_output_tokens": num_output,
        "request_throughput": len(good) / run.seconds,
        "request_goodput": sum(_meets(o, targets) for o in good) / run.seconds if targets else None,
        "output_throughput": num_output / run.seconds,
        "total_token_throughput": (num_input + num_output) / run.seconds,
        "max_output_tokens_per_s": peak_rate(good),
        "max_concurrent_requests": peak_concurrency(good),
        "input_lens": [o.prompt_tokens for o in run.outcomes],
        "output_lens": [o.output_tokens for o in run.outcomes],
        "ttfts": [o.ttft for o in run.outcomes],
        "itls": [o.gaps for o in run.outcomes],
        "latencies": [o.latency for o in run.outcomes],
        "start_times": [o.start for o in run.outcomes],
        "generated_texts": [o.text for o in run.outcomes],
        "errors": [o.error for o in run.outcomes],
    }
    for metric in config.metrics:
        values = 1e3 * np.asarray(metric_values(good, metric) or [0.0])
        result[f"mean_{metric}_ms"] = float(values.mean())
        result[f"median_{metric}_ms"] = float(np.median(values))
        result[f"std_{metric}_ms"] = float(values.std())
        for percentile in config.percentiles:
            result[f"p{percentile:g}_{metric}_ms"] = float(np.percentile(values, percentile))
    return result


def metric_values(outcomes: Sequence[Outcome], metric: str) -> list[float]:
    """Seconds: one for each request, for itl one for each gap; no tpot for an answer of one token."""
    if metric == "itl":
        return [gap for outcome in outcomes for gap in outcome.gaps]
    if metric == "tpot":
        return [outcome.tpot for outcome in outcomes if outcome.output_tokens > 1]
    return [outcome.ttft if metric == "ttft" else outcome.latency for outcome in outcomes]


def peak_rate(outcomes: Sequence[Outcome]) -> float:
    """The most pieces of answers in any whole second of the run."""
    times = [
        outcome.start + after
        for outcome in outcomes
        for after in np.cumsum([outcome.ttft, *outcome.gaps]).tolist()
    ]
    return float(np.bincount(np.asarray(times, int)).max()) if times else 0.0


def peak_concurrency(outcomes: Sequence[Outcome]) -> int:
    """The most requests that were open at a time."""
    changes = sorted(change for o in outcomes for change in ((o.start, 1), (o.start + o.latency, -1)))
    most = open_now = 0
    for _, change in changes:
        open_now += change
        most = max(most, open_now)
    return most


def lines(result: dict[str, Any], config: LoadConfig) -> list[str]:
    """The result for a terminal, as vLLM prints it."""
    rows: list[tuple[str, float | int | None]] = [
        ("Successful requests:", result["completed"]),
        ("Failed requests:", result["failed"]),
        ("Maximum request concurrency:", config.max_concurrency),
        (
            "Request rate configured (RPS):",
            None if config.request_rate == float("inf") else config.request_rate,
        ),
        ("Benchmark duration (s):", result["duration"]),
        ("Total input tokens:", result["total_input_tokens"]),
        ("Total generated tokens:", result["total_output_tokens"]),
        ("Request throughput (req/s):", result["request_throughput"]),
        ("Request goodput (req/s):", result["request_goodput"]),
        ("Output token throughput (tok/s):", result["output_throughput"]),
        ("Peak output token throughput (tok/s):", result["max_output_tokens_per_s"]),
        ("Peak concurrent requests:", result["max_concurrent_requests"]),
        ("Total token throughput (tok/s):", result["total_token_throughput"]),
    ]
    printed = [f"{' Serving Benchmark Result ':=^{WIDTH}}"]
    printed += [_row(title, value) for title, value in rows if value is not None]
    for metric in config.metrics:
        short, long = METRICS[metric]
        printed.append(f"{long:-^{WIDTH}}")
        printed.append(_row(f"Mean {short} (ms):", result[f"mean_{metric}_ms"]))
        printed.append(_row(f"Median {short} (ms):", result[f"median_{metric}_ms"]))
        for percentile in config.percentiles:
            value = result[f"p{percentile:g}_{metric}_ms"]
            printed.append(_row(f"P{percentile:g} {short} (ms):", value))
    return [*printed, "=" * WIDTH]


def _meets(outcome: Outcome, targets: dict[str, float]) -> bool:
    times = {"ttft": outcome.ttft, "tpot": outcome.tpot, "e2el": outcome.latency}
    return all(1e3 * times[name] <= most for name, most in targets.items())


def _row(title: str, value: float | int) -> str:
    return f"{title:<40} {value:<10}" if isinstance(value, int) else f"{title:<40} {value:<10.2f}"
