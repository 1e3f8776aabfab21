"""How a server is loaded and what is made of it, under the names of vLLM's flags."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from octavo.bench.dataset.config import DatasetConfig
from octavo.config import check_settings, setting

METRICS = {
    "ttft": ("TTFT", "Time to First Token"),
    "tpot": ("TPOT", "Time per Output Token (excl. 1st token)"),
    "itl": ("ITL", "Inter-token Latency"),
    "e2el": ("E2EL", "End-to-end Latency"),
}
"""Name in flags and results -> short and long name."""
GOODPUT_METRICS = ("ttft", "tpot", "e2el")


@dataclass(slots=True, kw_only=True)
class LoadConfig(DatasetConfig):
    """The flags of `octavo bench serve`."""

    base_url: str | None = setting(
        None, "The server, with or without /v1. Default: http://HOST:PORT.", "Server"
    )
    host: str = setting("127.0.0.1", "The server's host.", "Server")
    port: int = setting(8000, "The server's port.", "Server", low=1, high=65535)
    backend: str = setting(
        "openai",
        "Which API to use: completions (openai) or chat completions (openai-chat).",
        "Server",
        choices=("openai", "openai-chat"),
        aliases=("--endpoint-type",),
    )
    endpoint: str | None = setting(
        None, "Path of the API. Default: /v1/completions or /v1/chat/completions.", "Server"
    )
    model: str | None = setting(None, "The model to ask for. Default: the server's first.", "Server")
    tokenizer: str | None = setting(
        None,
        "What counts tokens: a GGUF file, a Hugging Face directory or a tokenizer.json. Default: the "
        "model where that is a path, else the demo model's.",
        "Server",
    )
    api_key: str | None = setting(None, "Sent as a bearer token. Default: OPENAI_API_KEY.", "Server")
    ready_check_timeout_sec: int = setting(
        60,
        "How long to wait until the server answers a first request; 0 asks none.",
        "Server",
        unit="seconds",
        low=0,
    )

    request_rate: float = setting(
        math.inf, "Requests a second, at random times; inf sends them all at once.", "Load", low=1e-6
    )
    burstiness: float = setting(
        1.0,
        "Shape of the gamma distribution of the times between requests: 1 is a Poisson process, less is "
        "burstier, more is more regular.",
        "Load",
        low=0.01,
        high=1e6,
    )
    max_concurrency: int | None = setting(None, "Most requests at a time.", "Load", low=1, high=65536)
    num_warmups: int = setting(
        0, "Requests that are sent first and do not count.", "Load", low=0, high=10_000
    )
    ignore_eos: bool = setting(
        False, "Have every answer go on to its full length. Not every server has this field.", "Load"
    )
    temperature: float = setting(0.0, "The requests' temperature.", "Load", low=0.0, high=2.0)
    extra_body: dict[str, Any] | None = setting(  # noqa: RUF009 (a field, not a default)
        None, "More fields of each request, as a JSON object.", "Load"
    )

    percentile_metrics: str = setting(
        "ttft,tpot,itl", "Latencies to report, of ttft, tpot, itl and e2el.", "Results"
    )
    metric_percentiles: str = setting("99", "Percentiles to report, such as 50,90,99.", "Results")
    goodput: tuple[str, ...] = setting(
        (),
        "Targets in milliseconds, such as ttft:200 tpot:50 (or e2el), for the rate of requests that keep "
        "to all of them.",
        "Results",
    )
    save_result: bool = setting(False, "Write the results to a JSON file, under vLLM's names.", "Results")
    save_detailed: bool = setting(
        False, "Write the times, lengths, text and error of every request as well.", "Results"
    )
    result_dir: str = setting(".", "Directory of the result file.", "Results")
    result_filename: str | None = setting(
        None, "Name of the result file. Default: made from what was run, and when.", "Results"
    )
    metadata: tuple[str, ...] = setting((), "KEY=VALUE pairs to keep in the results.", "Results")
    label: str | None = setting(None, "A name for the results. Default: the backend.", "Results")
    report: str | None = setting(
        None, "Write a page with the results and plots to this HTML file (needs octavo[bench]).", "Results"
    )
    plot: str | None = setting(
        None, "Write the plots to this file, .png, .svg or .pdf (needs octavo[bench]).", "Results"
    )
    disable_tqdm: bool = setting(False, "Show no progress.", "Results")

    def __post_init__(self) -> None:
        DatasetConfig.__post_init__(self)
        check_settings(self)
        _ = self.metrics, self.percentiles, self.targets, self.labels

    @property
    def url(self) -> str:
        """The server's, without /v1. Raises ValueError when `base_url` is none."""
        url = self.base_url or f"http://{self.host}:{self.port}"
        if not url.startswith(("http://", "https://")):
            raise ValueError(f"base_url (--base-url) must begin with http:// or https://, got {url!r}")
        return url.rstrip("/").removesuffix("/v1")

    @property
    def path(self) -> str:
        """Of the API."""
        default = "/v1/completions" if self.backend == "openai" else "/v1/chat/completions"
        return self.endpoint or default

    @property
    def metrics(self) -> list[str]:
        """The latencies to report."""
        names = [name.strip() for name in self.percentile_metrics.split(",") if name.strip()]
        for name in names:
            if name not in METRICS:
                raise ValueError(
                    f"percentile_metrics (--percentile-metrics) knows {', '.join(METRICS)}; got {name!r}"
                )
        return names

    @property
    def percentiles(self) -> list[float]:
        """The percentiles to report."""
        try:
            found = [float(each) for each in self.metric_percentiles.split(",")]
        except ValueError:
            found = [-1.0]
        if not all(0 <= each <= 100 for each in found):
            raise ValueError(
                "metric_percentiles (--metric-percentiles) must be numbers from 0 to 100 with commas "
                f"between, got {self.metric_percentiles!r}"
            )
        return found

    @property
    def targets(self) -> dict[str, float]:
        """Metric -> the most milliseconds of a request that counts as good."""
        found = {}
        for each in self.goodput:
            name, _, value = each.partition(":")
            number = _number(value)
            if name not in GOODPUT_METRICS or number is None:
                raise ValueError(
                    f"goodput (--goodput) takes pairs such as ttft:200, of {', '.join(GOODPUT_METRICS)} and "
                    f"milliseconds; got {each!r}"
                )
            found[name] = number
        return found

    @property
    def labels(self) -> dict[str, str]:
        """What `metadata` says."""
        for each in self.metadata:
            if "=" not in each:
                raise ValueError(f"metadata (--metadata) takes KEY=VALUE pairs, got {each!r}")
        return dict(each.split("=", 1) for each in self.metadata)


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) and value >= 0 else None
