"""The rules of deploy/prometheus as an object of the Prometheus operator.

    python deploy/kubernetes/components/monitoring/prometheusrule.py > \\
        deploy/kubernetes/components/monitoring/prometheusrule.yaml
"""

from __future__ import annotations

import sys
from pathlib import Path

import yaml

RULES = Path(__file__).parents[3] / "prometheus" / "rules"


def render() -> str:
    """The object, as YAML."""
    groups = [g for path in sorted(RULES.glob("*.yml")) for g in yaml.safe_load(path.read_text())["groups"]]
    rule = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "octavo"},
        "spec": {"groups": groups},
    }
    header = "# Made by prometheusrule.py from deploy/prometheus/rules.\n"
    return header + yaml.safe_dump(rule, sort_keys=False, width=1000)


if __name__ == "__main__":
    sys.stdout.write(render())
