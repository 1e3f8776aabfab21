"""The dashboard: what its code makes, about metrics that a server exports."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from support.grafana import DASHBOARD, dashboard_queries
from support.live_server import live_server
from support.promql import exported_names, metric_names

PANELS = {
    "Request rate": "vllm:request_success_total",
    "Queue depth": "vllm:num_requests_waiting",
    "Time to first token": "vllm:time_to_first_token_seconds_bucket",
    "Throughput": "vllm:generation_tokens_total",
    "KV cache usage": "vllm:kv_cache_usage_perc",
    "Error rate": "vllm:request_success_total",
}


def test_the_json_is_what_the_code_makes() -> None:
    pytest.importorskip("grafana_foundation_sdk")
    code = DASHBOARD.with_name("dashboard.py")
    made = subprocess.run([sys.executable, code], capture_output=True, text=True, check=True).stdout
    assert made == DASHBOARD.read_text(), (
        "run: python deploy/grafana/dashboard.py > deploy/grafana/octavo.json"
    )


def test_it_asks_for_what_a_server_exports() -> None:
    with live_server() as server:
        exported = exported_names(server.http.get("/metrics").text)
    engine_process = {f"octavo_engine_{name}" for name in exported if name.startswith("process_")}
    asked = set().union(*map(metric_names, dashboard_queries("5m")))
    assert len(asked) > 25
    assert asked <= exported | engine_process


def test_the_six_panels_that_every_operator_needs() -> None:
    panels = {panel["title"]: panel for panel in json.loads(DASHBOARD.read_text())["panels"]}
    for title, metric in PANELS.items():
        assert metric in panels[title]["targets"][0]["expr"]
    places = [(p["gridPos"]["x"], p["gridPos"]["y"]) for p in panels.values()]
    assert len(set(places)) == len(places)
