"""Series under the other names that dashboards and autoscalers know them by."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

OTHER_NAMES: Mapping[str, tuple[str, ...]] = {
    "vllm:kv_cache_usage_perc": ("vllm:gpu_cache_usage_perc",),
    "vllm:inter_token_latency_seconds": ("vllm:time_per_output_token_seconds",),
    "vllm:prefix_cache_queries": ("vllm:gpu_prefix_cache_queries",),
    "vllm:prefix_cache_hits": ("vllm:gpu_prefix_cache_hits",),
    "vllm:num_requests_waiting": ("vllm_num_requests_waiting",),
}
"""Name -> the same series' other names: vLLM's before V1, and one without a colon, which Kubernetes'
metrics adapters cannot have in a name."""


class OtherNames(Collector):
    """What another collector gives, and copies of it under `OTHER_NAMES`."""

    def __init__(self, source: Collector) -> None:
        self._source = source

    def collect(self) -> Iterable[Metric]:
        """The source's families, each followed by its copies."""
        for family in self._source.collect():
            yield family
            for name in OTHER_NAMES.get(family.name, ()):
                yield _renamed(family, name)


def _renamed(family: Metric, name: str) -> Metric:
    copy = Metric(name, f"{family.documentation} Another name of {family.name}.", family.type)
    for sample in family.samples:
        renamed = name + sample.name.removeprefix(family.name)
        copy.samples.append(Sample(renamed, sample.labels, sample.value))
    return copy
