"""The Grafana dashboard, made with Grafana's Foundation SDK.

python deploy/grafana/dashboard.py > deploy/grafana/octavo.json
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

from grafana_foundation_sdk.builders.common import VizLegendOptions
from grafana_foundation_sdk.builders.dashboard import (
    Dashboard,
    DatasourceVariable,
    QueryVariable,
    Row,
    ThresholdsConfig,
)
from grafana_foundation_sdk.builders.heatmap import Panel as Heatmap
from grafana_foundation_sdk.builders.prometheus import Dataquery
from grafana_foundation_sdk.builders.timeseries import Panel as TimeSeries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import LegendDisplayMode, LegendPlacement
from grafana_foundation_sdk.models.dashboard import (
    DataSourceRef,
    Threshold,
    ThresholdsMode,
    VariableRefresh,
)
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
CHOSEN = 'job=~"$job", model_name=~"$model"'
WIDTH = 8
HEIGHT = 8


@dataclass(frozen=True)
class Query:
    """An expression, with `CHOSEN` for the label matchers of what the dashboard shows, and its legend."""

    expression: str
    legend: str

    @property
    def expr(self) -> str:
        """The expression as Grafana gets it."""
        return self.expression.replace("CHOSEN", CHOSEN)


@dataclass(frozen=True)
class Graph:
    """Lines over time; `limit` is where an alert begins."""

    title: str
    unit: str
    queries: tuple[Query, ...]
    description: str = ""
    limit: float | None = None
    most: float | None = None


def rate(metric: str, by: str = "model_name") -> str:
    """The rate of a counter, added up."""
    return f"sum by ({by}) (rate({metric}{{CHOSEN}}[$__rate_interval]))"


def quantiles(metric: str) -> tuple[Query, ...]:
    """p50, p95 and p99 of a histogram."""
    of = rate(f"{metric}_bucket", "model_name, le")
    percents = (50, 95, 99)
    return tuple(Query(f"histogram_quantile({p / 100}, {of})", f"p{p} {{{{model_name}}}}") for p in percents)


def mean(metric: str) -> str:
    """The mean of a histogram's values."""
    return f"{rate(f'{metric}_sum')} / {rate(f'{metric}_count')}"


def phase(name: str) -> Query:
    """The mean time that requests spend in a phase."""
    return Query(mean(f"vllm:request_{name}_time_seconds"), name)


HEATMAPS = {
    "Time to first token, all requests": "vllm:time_to_first_token_seconds_bucket",
    "Tokens in a step": "vllm:iteration_tokens_total_bucket",
}

ROWS: dict[str, tuple[Graph, ...]] = {
    "Overview": (
        Graph(
            "Request rate",
            "reqps",
            (Query(rate("vllm:request_success_total", "finished_reason"), "{{finished_reason}}"),),
            "Requests that ended, by the reason.",
        ),
        Graph(
            "Queue depth",
            "short",
            (
                Query("sum by (instance) (vllm:num_requests_waiting{CHOSEN})", "waiting {{instance}}"),
                Query("sum by (instance) (vllm:num_requests_running{CHOSEN})", "running {{instance}}"),
            ),
            "A queue that stays calls for more replicas.",
            limit=50,
        ),
        Graph(
            "Time to first token",
            "s",
            quantiles("vllm:time_to_first_token_seconds"),
            "Queue and prefill together.",
            limit=2,
        ),
        Graph(
            "Throughput",
            "short",
            (
                Query(rate("vllm:generation_tokens_total"), "generated tokens/s {{model_name}}"),
                Query(rate("vllm:prompt_tokens_total"), "prompt tokens/s {{model_name}}"),
            ),
        ),
        Graph(
            "KV cache usage",
            "percentunit",
            (Query("vllm:kv_cache_usage_perc{CHOSEN}", "{{instance}}"),),
            "Full, sequences are preempted.",
            limit=0.95,
            most=1,
        ),
        Graph(
            "Error rate",
            "percentunit",
            (
                Query(
                    'sum by (model_name) (rate(vllm:request_success_total{CHOSEN, finished_reason="error"}'
                    f"[$__rate_interval])) / {rate('vllm:request_success_total')}",
                    "{{model_name}}",
                ),
            ),
            limit=0.05,
            most=1,
        ),
    ),
    "Latency": (
        Graph("Time between tokens", "s", quantiles("vllm:inter_token_latency_seconds"), limit=0.1),
        Graph("Request latency", "s", quantiles("vllm:e2e_request_latency_seconds"), limit=10),
        Graph(
            "Where the time goes",
            "s",
            (phase("queue"), phase("prefill"), phase("decode")),
            "Means over requests that ended.",
        ),
        Graph(
            "Time per token of a request",
            "s",
            quantiles("vllm:request_time_per_output_token_seconds"),
        ),
    ),
    "Cache and memory": (
        Graph(
            "Prefix cache hit rate",
            "percentunit",
            (
                Query(
                    f"{rate('vllm:prefix_cache_hits_total')} / {rate('vllm:prefix_cache_queries_total')}",
                    "{{model_name}}",
                ),
            ),
            most=1,
        ),
        Graph(
            "Preemptions",
            "short",
            (Query(rate("vllm:num_preemptions_total", "instance"), "{{instance}}"),),
            "A second; each is computed again.",
        ),
        Graph(
            "Memory",
            "bytes",
            (
                Query("octavo_engine_process_resident_memory_bytes{CHOSEN}", "engine {{instance}}"),
                Query("octavo_api_process_resident_memory_bytes{CHOSEN}", "API {{instance}} {{process}}"),
            ),
        ),
    ),
    "Engine": (
        Graph("Time of a step", "s", quantiles("octavo_step_seconds")),
        Graph("Sequences in a step", "short", (Query(mean("octavo_step_sequences"), "mean {{model_name}}"),)),
        Graph(
            "CPU",
            "short",
            (
                Query(
                    "rate(octavo_engine_process_cpu_seconds_total{CHOSEN}[$__rate_interval])",
                    "engine {{instance}}",
                ),
                Query(
                    "rate(octavo_api_process_cpu_seconds_total{CHOSEN}[$__rate_interval])",
                    "API {{instance}} {{process}}",
                ),
            ),
            "Busy CPUs.",
        ),
        Graph(
            "API processes",
            "percentunit",
            (
                Query(
                    "rate(octavo_api_process_cpu_seconds_total{CHOSEN}[$__rate_interval])"
                    " + rate(octavo_api_process_cpu_wait_seconds_total{CHOSEN}[$__rate_interval])",
                    "busy {{instance}} {{process}}",
                ),
                Query(
                    "rate(octavo_step_seconds_sum{CHOSEN}[$__rate_interval])",
                    "the engine computes {{instance}}",
                ),
            ),
            "Part of the time that each had something to do. Near 1 while the engine computes for less, "
            "more of them help (--api-server-count).",
            limit=0.9,
        ),
        Graph(
            "Restarts",
            "short",
            (
                Query(
                    "increase(octavo_engine_restarts_total{CHOSEN}[$__rate_interval])",
                    "engine {{instance}}",
                ),
                Query(
                    "increase(octavo_api_process_restarts_total{CHOSEN}[$__rate_interval])",
                    "API process {{instance}}",
                ),
                Query("octavo_engine_up{CHOSEN}", "engine up {{instance}}"),
            ),
        ),
    ),
    "Requests": (
        Graph("Prompt tokens", "short", quantiles("vllm:request_prompt_tokens")),
        Graph("Generated tokens", "short", quantiles("vllm:request_generation_tokens")),
        Graph(
            "Prompt tokens by source",
            "short",
            (Query(rate("vllm:prompt_tokens_by_source_total", "source"), "{{source}}"),),
            "A second.",
        ),
    ),
}


def graph_panel(graph: Graph) -> TimeSeries:
    """The panel of a graph."""
    legend = VizLegendOptions().display_mode(LegendDisplayMode.LIST).placement(LegendPlacement.BOTTOM)
    panel = (
        TimeSeries()
        .title(graph.title)
        .description(graph.description)
        .datasource(SOURCE)
        .unit(graph.unit)
        .min(0)
        .legend(legend.show_legend(True))
        .fill_opacity(8)
        .line_width(1)
        .span(WIDTH)
        .height(HEIGHT)
    )
    if graph.most is not None:
        panel.max(graph.most)
    if graph.limit is not None:
        steps = [Threshold(value=None, color="green"), Threshold(value=graph.limit, color="red")]
        panel.thresholds(ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps))
    for letter, query in zip("ABC", graph.queries, strict=False):
        panel.with_target(Dataquery().ref_id(letter).expr(query.expr).legend_format(query.legend))
    return panel


def heatmap_panel(title: str, metric: str) -> Heatmap:
    """How a histogram's values are spread over time."""
    target = Dataquery().expr(Query(rate(metric, "le"), "").expr).ref_id("A").legend_format("{{le}}")
    return (
        Heatmap()
        .title(title)
        .datasource(SOURCE)
        .span(WIDTH)
        .height(HEIGHT)
        .with_target(target.format(PromQueryFormat.HEATMAP))
    )


def variable(name: str, label: str, query: str) -> QueryVariable:
    """A choice among the values of a label, all of them at first."""
    return (
        QueryVariable(name)
        .label(label)
        .datasource(SOURCE)
        .query(query)
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .multi(True)
        .include_all(True)
        .all_value(".*")
    )


def dashboard() -> Dashboard:
    """The whole dashboard."""
    board = (
        Dashboard("octavo")
        .uid("octavo")
        .tags(["octavo", "vllm", "llm"])
        .editable()
        .refresh("10s")
        .time("now-30m", "now")
        .with_variable(DatasourceVariable("datasource").label("Data source").type("prometheus"))
        .with_variable(variable("job", "Job", "label_values(vllm:num_requests_running, job)"))
        .with_variable(
            variable("model", "Model", 'label_values(vllm:num_requests_running{job=~"$job"}, model_name)')
        )
    )
    for title, graphs in ROWS.items():
        board.with_row(Row(title))
        for graph in graphs:
            board.with_panel(graph_panel(graph))
    board.with_row(Row("Distributions"))
    for title, metric in HEATMAPS.items():
        board.with_panel(heatmap_panel(title, metric))
    return board


def render() -> str:
    """The dashboard as the JSON that Grafana imports."""
    return JSONEncoder(sort_keys=True, indent=2).encode(dashboard().build()) + "\n"


if __name__ == "__main__":
    sys.stdout.write(render())
