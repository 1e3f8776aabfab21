"""The line of statistics that a server logs now and then, in the words of vLLM's."""

from __future__ import annotations

import asyncio
import logging
import time

from octavo.observe.metrics import Metrics, kv_cache_usage, prefix_cache_hit_rate

_log = logging.getLogger(__name__)


class StatsLine:
    """Token rates since the line before, and the engine's state."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._time = time.monotonic()
        self._prefill = self._generated = 0
        self._was_idle = True

    def next(self, now: float) -> str | None:
        """The line at `now` (monotonic seconds); None when nothing has happened since the last two."""
        totals, stats = self._metrics.totals, self._metrics.stats
        elapsed = max(now - self._time, 1e-9)
        prefill, generated = totals.prefill_tokens - self._prefill, totals.generated_tokens - self._generated
        self._time, self._prefill, self._generated = now, totals.prefill_tokens, totals.generated_tokens
        idle = not (prefill or generated or stats.num_running or stats.num_waiting)
        was_idle, self._was_idle = self._was_idle, idle
        if idle and was_idle:
            return None
        return (
            f"Engine 000: Avg prompt throughput: {prefill / elapsed:.1f} tokens/s, "
            f"Avg generation throughput: {generated / elapsed:.1f} tokens/s, "
            f"Running: {stats.num_running} reqs, Waiting: {stats.num_waiting} reqs, "
            f"Preemptions: {stats.num_preemptions}, GPU KV cache usage: {100 * kv_cache_usage(stats):.1f}%, "
            f"Prefix cache hit rate: {100 * prefix_cache_hit_rate(stats):.1f}%"
        )

    async def run(self, interval: float) -> None:
        """Log the line every `interval` seconds, until cancelled."""
        while True:
            await asyncio.sleep(interval)
            line = self.next(time.monotonic())
            if line is not None:
                _log.info("%s", line)
