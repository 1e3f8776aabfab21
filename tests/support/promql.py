"""The metrics that PromQL asks for, and those that a server gives."""

from __future__ import annotations

import re

from prometheus_client.parser import text_string_to_metric_families


def metric_names(expression: str) -> set[str]:
    """The names in an expression, of series and of recording rules."""
    without_labels = re.sub(r"\{[^}]*\}|\[[^\]]*\]|\b(by|without|on|ignoring)\s*\([^)]*\)", " ", expression)
    return set(re.findall(r"\b(?:vllm|model|octavo|process|up)(?:[:_][a-zA-Z0-9_:]+)?\b", without_labels))


def exported_names(text: str) -> set[str]:
    """The names of the samples in a scrape."""
    return {sample.name for family in text_string_to_metric_families(text) for sample in family.samples}
