"""The activations of gated MLPs: which op multiplies a gate, activated, by its second input."""

from __future__ import annotations

from collections.abc import Callable

from octavo.runtime.ops import Tracer
from octavo.runtime.program import View

GATED: dict[str, Callable[[Tracer, View, View], View]] = {"silu": Tracer.silu_mul}
"""From the gate and what it lets through, by the name that a config.json has for the activation."""
