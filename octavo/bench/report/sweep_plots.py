"""Several runs as plots: what more load gives, and what it costs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from octavo.bench.load.config import METRICS

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot_sweep(
    names: Sequence[str],
    results: Sequence[dict[str, Any]],
    metrics: Sequence[str],
    percentiles: Sequence[float],
) -> Figure:
    """Throughput over the runs, and each latency's median and percentiles."""
    from matplotlib.figure import Figure

    count = 1 + len(metrics)
    figure = Figure(figsize=(11, 3.2 * -(-count // 2)), layout="constrained")
    axes = figure.subplots(-(-count // 2), 2, squeeze=False).flat
    positions = range(len(names))
    first = axes[0]
    first.plot(positions, [result["output_throughput"] for result in results], "o-")
    first.set_ylabel("output tokens/s")
    for axis, metric in zip(axes[1:count], metrics, strict=True):
        axis.plot(positions, [result[f"median_{metric}_ms"] for result in results], "o-", label="median")
        for each in percentiles:
            values = [result[f"p{each:g}_{metric}_ms"] for result in results]
            axis.plot(positions, values, "o--", label=f"p{each:g}")
        axis.set_ylabel(f"{METRICS[metric][0]} (ms)")
        axis.legend()
    for axis in axes[:count]:
        axis.set_xticks(list(positions), names, rotation=20, ha="right")
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
    for axis in axes[count:]:
        axis.remove()
    return figure
