"""What the Grafana dashboard asks Prometheus."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

DASHBOARD = Path(__file__).parents[2] / "deploy" / "grafana" / "octavo.json"


def dashboard_queries(interval: str) -> list[str]:
    """Every expression, with Grafana's variables filled in: all jobs, all models, rates over `interval`."""
    dashboard: dict[str, Any] = json.loads(DASHBOARD.read_text())
    expressions = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())]
    values = {"$__rate_interval": interval, "$job": ".*", "$model": ".*"}
    for name, value in values.items():
        expressions = [expression.replace(name, value) for expression in expressions]
    return expressions
