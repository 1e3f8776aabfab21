"""What a check found."""

from __future__ import annotations

from typing import Literal

import msgspec

Severity = Literal["critical", "warning", "note"]
ORDER: tuple[Severity, ...] = ("critical", "warning", "note")


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """A problem (critical, warning) or something to know (note): what shows it, why, and what to change."""

    name: str
    chapter: Literal["memory", "latency", "throughput", "preemption", "errors"]
    severity: Severity
    evidence: str
    cause: str
    change: str

    @property
    def is_problem(self) -> bool:
        """Whether something should be done."""
        return self.severity != "note"
