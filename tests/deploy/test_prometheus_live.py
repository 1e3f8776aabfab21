"""A real Prometheus scrapes a server that gets more requests than it can run: alerts, queries, dashboard."""

from __future__ import annotations

import math
import re
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from support.grafana import dashboard_queries
from support.serve_command import Command, serve

RULES = Path(__file__).parents[2] / "deploy" / "prometheus" / "rules"
WAIT_SECONDS = 60
LOAD_SECONDS = 300
"""What makes the queue takes long on a busy machine, and must not give up before the alert fires."""

# Queries as dashboards for vLLM have them.
QUERIES_FROM_VLLM = [
    "rate(vllm:request_success_total[5m])",
    "vllm:num_requests_waiting",
    "histogram_quantile(0.95, rate(vllm:time_to_first_token_seconds_bucket[5m]))",
    "rate(vllm:generation_tokens_total[5m])",
    "vllm:gpu_cache_usage_perc",
    "rate(vllm:request_failure_total[5m]) / rate(vllm:request_success_total[5m])",
    "sum(vllm_num_requests_waiting)",
    "vllm:cpu_prefix_cache_hit_rate",
    "histogram_quantile(0.95, rate(vllm:time_per_output_token_seconds_bucket[5m]))",
]


class Prometheus:
    """One that scrapes a server every fifth of a second; minutes in its rules are half seconds."""

    def __init__(self, folder: Path, server: Command) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        for path in RULES.glob("*.yml"):
            (folder / path.name).write_text(faster(path.read_text()))
        config = {
            "global": {"scrape_interval": "200ms", "evaluation_interval": "200ms", "scrape_timeout": "200ms"},
            "rule_files": ["*.yml"],
            "scrape_configs": [{"job_name": "octavo", "static_configs": [{"targets": [server.url[7:]]}]}],
        }
        (folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{port}/api/v1", timeout=10)
        self.process = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={folder / 'prometheus.yaml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
                "--log.level=warn",
            ]
        )

    def query(self, expression: str) -> list[float]:
        """The values of an instant query, without those that are no number."""
        values = [float(series["value"][1]) for series in self.get("/query", query=expression)["result"]]
        return [value for value in values if not math.isnan(value)]

    def firing(self) -> set[str]:
        """The alerts that fire."""
        alerts = self.get("/alerts")["alerts"]
        return {alert["labels"]["alertname"] for alert in alerts if alert["state"] == "firing"}

    def get(self, path: str, **params: str) -> Any:
        """Raises httpx.HTTPError also while it starts: it then listens, and answers 503 in plain text."""
        return self.http.get(path, params=params).raise_for_status().json()["data"]


def faster(rules: str) -> str:
    """The rules for a test that has seconds: ranges and waiting times by the hundred and more."""
    rules = re.sub(r"for: \d+[mh]", "for: 400ms", rules)
    return re.sub(r"\[\d+[mhd]\]", "[2s]", rules)


@contextmanager
def prometheus(folder: Path, server: Command) -> Iterator[Prometheus]:
    running = Prometheus(folder, server)
    try:
        yield running
    finally:
        running.http.close()
        running.process.terminate()
        running.process.wait(20)


def wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        try:
            if condition():
                return
        except httpx.HTTPError:  # It is still starting.
            pass
        assert time.monotonic() < deadline, what
        time.sleep(0.1)


def complete(server: Command, prompts: list[str], **more: Any) -> None:
    body = {"prompt": prompts, "max_tokens": 12, "ignore_eos": True, **more}
    assert server.http.post("/v1/completions", json=body, timeout=LOAD_SECONDS).status_code == 200


def complete_until(seen: threading.Event, server: Command, prompts: list[str], max_tokens: int = 60) -> None:
    while not seen.is_set():
        complete(server, prompts, max_tokens=max_tokens)


def test_a_queue_raises_the_alert_and_its_end_clears_it(tmp_path: Path, demo_model: Path) -> None:
    pytest.importorskip("octavo._native", reason="the kernels are not built")
    if shutil.which("prometheus") is None:
        pytest.skip("prometheus is not installed (apt-get install prometheus)")
    with serve(demo_model, "--max-num-seqs", "2") as server, prometheus(tmp_path, server) as running:
        wait_until(lambda: running.query("octavo_engine_up") == [1], "Prometheus scrapes the server")
        assert running.firing() == set()
        prompts = [f"{number} is a number, and the next is" for number in range(75)]
        seen = threading.Event()
        load = threading.Thread(target=complete_until, args=(seen, server, prompts))
        load.start()
        wait_until(lambda: "OctavoQueueBuildingUp" in running.firing(), "the alert fires")
        assert running.query("max_over_time(vllm:num_requests_waiting[1m])")[0] > 50
        seen.set()
        load.join()
        complete(server, ["x"], allowed_token_ids=[28], stop_token_ids=[28])
        # Most queries ask for what ended in the last two seconds, so that requests have to end meanwhile.
        answered = threading.Event()
        load = threading.Thread(target=complete_until, args=(answered, server, ["x"], 3))
        load.start()
        try:
            for query in (*QUERIES_FROM_VLLM, *dashboard_queries("2s")):
                wait_until(lambda query=query: running.query(query) != [], f"{query} has an answer")
        finally:
            answered.set()
            load.join()
        wait_until(lambda: "OctavoQueueBuildingUp" not in running.firing(), "the alert clears")
        assert "OctavoEngineDown" not in running.firing()
