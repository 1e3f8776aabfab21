"""The histograms of how long KV blocks keep their content, under vLLM's names."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from octavo.engine.messages import BlockEviction
from octavo.observe.histogram import Histogram

SECONDS = (
    *(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5),
    *(1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1200.0, 1800.0),
)


class ResidencySeries:
    """Three histograms of the blocks that were followed; there only with `--kv-cache-metrics`, as in vLLM."""

    def __init__(self, histogram: Callable[[str, str, Sequence[float]], Histogram]) -> None:
        """`histogram` makes one of a name, a help text and bounds."""
        self._lifetime = histogram(
            "vllm:kv_block_lifetime_seconds", "From a block's allocation to its reuse for others.", SECONDS
        )
        self._idle = histogram(
            "vllm:kv_block_idle_before_evict_seconds",
            "From a block's last use to that.",
            SECONDS,
        )
        self._reuse_gap = histogram(
            "vllm:kv_block_reuse_gap_seconds",
            "Between uses of a block's content, the last four.",
            SECONDS,
        )

    def observe(self, evictions: Iterable[BlockEviction]) -> None:
        """Count blocks whose content is gone."""
        for eviction in evictions:
            self._lifetime.observe(eviction.lifetime)
            self._idle.observe(eviction.idle)
            for gap in eviction.reuse_gaps:
                self._reuse_gap.observe(gap)
