"""The series of the tiers behind the KV cache."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge

from octavo.engine.messages import OffloadStats
from octavo.observe.running_total import RunningTotal


class OffloadSeries:
    """All are 0 where no flag asks for a tier; those named external are vLLM's for a cache elsewhere."""

    def __init__(self, registry: CollectorRegistry, labels: Mapping[str, str]) -> None:
        """`labels` go on every series."""
        names, values = list(labels), list(labels.values())

        def counter(name: str, help: str) -> RunningTotal:
            return RunningTotal(Counter(name, help, names, registry=registry).labels(*values))

        self._queries = counter(
            "vllm:external_prefix_cache_queries", "Prompt tokens that the prefix cache did not have."
        )
        self._hits = counter(
            "vllm:external_prefix_cache_hits", "Those of them that were restored from host memory or disk."
        )
        self._dropped = counter(
            "octavo_kv_offload_dropped_blocks",
            "KV blocks that the disk was too slow or too full for.",
        )
        restored = Counter(
            "octavo_kv_offload_restored_blocks",
            "KV blocks that came back to the KV cache.",
            [*names, "tier"],
            registry=registry,
        )
        stored = Counter(
            "octavo_kv_offload_stored_blocks",
            "KV blocks that were copied to a tier.",
            [*names, "tier"],
            registry=registry,
        )
        held = Gauge("octavo_kv_offload_blocks", "KV blocks in a tier.", [*names, "tier"], registry=registry)
        self._restored = [RunningTotal(restored.labels(*values, tier)) for tier in ("host", "disk")]
        self._stored = [RunningTotal(stored.labels(*values, tier)) for tier in ("host", "disk")]
        self._held = [held.labels(*values, tier) for tier in ("host", "disk")]
        self._disk_bytes = Gauge(
            "octavo_kv_offload_disk_bytes",
            "What the files of all models in the directory take.",
            names,
            registry=registry,
        ).labels(*values)

    def update(self, stats: OffloadStats) -> None:
        """Take in the totals of a step."""
        self._queries.update(stats.queries)
        self._hits.update(stats.hits)
        self._dropped.update(stats.dropped)
        for total, count in zip(
            self._restored, (stats.restored_from_host, stats.restored_from_disk), strict=True
        ):
            total.update(count)
        for total, count in zip(self._stored, (stats.offloaded, stats.written), strict=True):
            total.update(count)
        for gauge, count in zip(self._held, (stats.host_blocks, stats.disk_blocks), strict=True):
            gauge.set(count)
        self._disk_bytes.set(stats.disk_bytes)
