"""One run as plots: how latencies are distributed, and what happened when."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from octavo.bench.load.config import METRICS

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot_run(result: dict[str, Any]) -> Figure:
    """From a result with its details: distributions at the top, the run by the second below them."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 9), layout="constrained")
    axes = figure.subplots(3, 2)
    finished = [i for i, error in enumerate(result["errors"]) if not error]
    for axis, (metric, values) in zip(axes.flat, _values(result, finished).items(), strict=False):
        ordered = 1e3 * np.sort(values)
        axis.step(ordered, np.arange(1, len(ordered) + 1) / max(1, len(ordered)), where="post")
        axis.set(
            xlabel=f"{METRICS[metric][0]} (ms)",
            ylabel="share of " + ("gaps" if metric == "itl" else "requests"),
        )
        axis.set_ylim(0, 1.02)
        axis.grid(alpha=0.3)
    _plot_tokens(axes[2, 0], result, finished)
    _plot_requests(axes[2, 1], result, finished)
    return figure


def _values(result: dict[str, Any], finished: list[int]) -> dict[str, list[float]]:
    def of(key: str) -> list[Any]:
        return [result[key][i] for i in finished]

    many = zip(of("latencies"), of("ttfts"), of("output_lens"), strict=True)
    return {
        "ttft": of("ttfts"),
        "itl": [gap for gaps in of("itls") for gap in gaps],
        "tpot": [(latency - ttft) / (tokens - 1) for latency, ttft, tokens in many if tokens > 1],
        "e2el": of("latencies"),
    }


def _plot_tokens(axis: Any, result: dict[str, Any], finished: list[int]) -> None:
    """Pieces of answers in each second."""
    times = [
        result["start_times"][i] + after
        for i in finished
        for after in np.cumsum([result["ttfts"][i], *result["itls"][i]])
    ]
    counts = np.bincount(np.asarray(times, int)) if times else np.zeros(1)
    axis.stairs(counts, fill=True, alpha=0.6)
    axis.set(xlabel="time (s)", ylabel="tokens in each second")
    axis.grid(alpha=0.3)


def _plot_requests(axis: Any, result: dict[str, Any], finished: list[int]) -> None:
    """A line for each request: waiting for its first token, then its answer."""
    for row, i in enumerate(sorted(finished, key=lambda i: float(result["start_times"][i]))):
        start, ttft, latency = result["start_times"][i], result["ttfts"][i], result["latencies"][i]
        axis.hlines(row, start, start + ttft, color="tab:orange", linewidth=1)
        axis.hlines(row, start + ttft, start + latency, color="tab:blue", linewidth=1)
    axis.set(xlabel="time (s)", ylabel="request (orange: no token yet)")
