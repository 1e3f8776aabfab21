"""What is known of the engine at the moment of a scrape: its configuration, its process, its restarts."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping
from typing import Protocol

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

import octavo
from octavo.config import EngineConfig
from octavo.engine.messages import EngineReady
from octavo.machine.cpus import usable_cpus
from octavo.machine.memory import machine_memory


class WatchedEngine(Protocol):
    """What is read of an engine."""

    config: EngineConfig
    ready: EngineReady
    num_restarts: int

    @property
    def healthy(self) -> bool:
        """Whether it runs."""
        ...


class EngineCollector(Collector):
    """Gauges fixed at 1 whose labels hold the configuration, as vLLM has them, and the engine's condition."""

    def __init__(self, engine: WatchedEngine, labels: Mapping[str, str]) -> None:
        """`labels` go on every series."""
        self._engine = engine
        self._labels = dict(labels)

    def collect(self) -> Iterable[Metric]:
        """The families."""
        engine = self._engine
        cache = cache_config(engine.config, engine.ready)
        yield self._gauge("vllm:cache_config_info", "The KV cache's settings, as labels.", 1, cache)
        settings = engine_settings(engine.config, engine.ready)
        yield self._gauge("octavo_engine_config_info", "The engine's settings, as labels.", 1, settings)
        build = {"version": octavo.__version__, "python": platform.python_version(), "isa": engine.ready.isa}
        yield self._gauge("octavo_build_info", "The server's version and kernels, as labels.", 1, build)
        memory = machine_memory()
        limit = "Memory of the machine, or less where a control group limits it."
        yield self._gauge("octavo_memory_limit_bytes", limit, memory.total, {})
        available = "What of it can still be taken."
        yield self._gauge("octavo_memory_available_bytes", available, memory.available, {})
        up = float(engine.healthy)
        yield self._gauge("octavo_engine_up", "Whether the engine process runs and takes requests.", up, {})
        restarts = CounterMetricFamily(
            "octavo_engine_restarts", "Engine processes that replaced a dead one.", labels=list(self._labels)
        )
        restarts.add_metric(list(self._labels.values()), engine.num_restarts)
        yield restarts

    def _gauge(self, name: str, help: str, value: float, labels: Mapping[str, str]) -> Metric:
        every = {**self._labels, **labels}
        family = GaugeMetricFamily(name, help, labels=list(every))
        family.add_metric(list(every.values()), value)
        return family


def cache_config(config: EngineConfig, ready: EngineReady) -> dict[str, str]:
    """The labels of vLLM's `cache_config_info` that octavo has, and the cache's size in tokens."""
    fields = {
        "block_size": config.block_size,
        "cache_dtype": config.kv_cache_dtype,
        "enable_prefix_caching": config.enable_prefix_caching,
        "gpu_memory_utilization": config.gpu_memory_utilization,
        "kv_cache_memory_bytes": ready.kv_cache_bytes,
        "kv_cache_size_tokens": ready.num_blocks * config.block_size,
        "num_gpu_blocks": ready.num_blocks,
        "num_gpu_blocks_override": config.num_gpu_blocks_override,
    }
    return {name: str(value) for name, value in fields.items()}


def engine_settings(config: EngineConfig, ready: EngineReady) -> dict[str, str]:
    """What decides how steps are made and how fast they are."""
    fields = {
        "backend": config.backend,
        "dtype": config.dtype,
        "enable_chunked_prefill": config.enable_chunked_prefill,
        "max_model_len": ready.max_model_len,
        "max_num_batched_tokens": config.max_num_batched_tokens,
        "max_num_seqs": config.max_num_seqs,
        "cpus": usable_cpus(),
        "threads": config.threads,
        "weight_bytes": ready.weight_bytes,
    }
    return {name: str(value) for name, value in fields.items()}
