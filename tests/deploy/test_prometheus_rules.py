"""The rules: right to promtool, firing and clearing as their tests say, and about metrics that exist."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from support.live_server import live_server
from support.promql import exported_names, metric_names

PROMETHEUS = Path(__file__).parents[2] / "deploy" / "prometheus"
RULE_FILES = sorted((PROMETHEUS / "rules").glob("*.yml"))

# The names and thresholds that operators of vLLM alert on, as they have them in their own files.
RULES_FROM_VLLM = """
groups:
  - name: from-vllm
    rules:
      - alert: Queue
        expr: vllm:num_requests_waiting > 50
        for: 5m
      - alert: Latency
        expr: histogram_quantile(0.95, rate(vllm:e2e_request_latency_seconds_bucket[5m])) > 10
        for: 5m
      - alert: Cache
        expr: vllm:gpu_cache_usage_perc > 0.95
        for: 5m
"""


def promtool(*arguments: str | Path) -> str:
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not installed (apt-get install prometheus)")
    result = subprocess.run(["promtool", *arguments], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def rules() -> list[dict[str, str]]:
    files = [yaml.safe_load(path.read_text()) for path in RULE_FILES]
    return [rule for file in files for group in file["groups"] for rule in group["rules"]]


def test_the_configuration_and_the_rules_are_right() -> None:
    assert "3 rule files found" in promtool("check", "config", PROMETHEUS / "prometheus.yml")
    for path in RULE_FILES:
        assert "SUCCESS" in promtool("check", "rules", path)


@pytest.mark.parametrize("path", sorted((PROMETHEUS / "tests").glob("*.yml")), ids=lambda path: path.stem)
def test_alerts_fire_and_clear(path: Path) -> None:
    assert "SUCCESS" in promtool("test", "rules", path)


def test_every_alert_is_tested() -> None:
    tests = "".join(path.read_text() for path in (PROMETHEUS / "tests").glob("*.yml"))
    for rule in rules():
        if "alert" in rule:
            assert f"alertname: {rule['alert']}\n" in tests, rule["alert"]


def test_rules_ask_for_metrics_that_exist() -> None:
    with live_server() as server:
        exported = exported_names(server.http.get("/metrics").text)
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    asked = set().union(*(metric_names(rule["expr"]) for rule in rules()))
    assert len(asked) > 20
    assert asked <= exported | recorded | {"up"}


def test_rules_written_for_vllm_work_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "rules.yml").write_text(RULES_FROM_VLLM)
    promtool("check", "rules", tmp_path / "rules.yml")
    groups = yaml.safe_load(RULES_FROM_VLLM)["groups"]
    asked = set().union(*(metric_names(rule["expr"]) for rule in groups[0]["rules"]))
    with live_server() as server:
        assert asked <= exported_names(server.http.get("/metrics").text)
