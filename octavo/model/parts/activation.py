"""The activations of gated MLPs: the ops that multiply an activated gate by what it lets through."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from octavo.runtime.ops import Tracer
from octavo.runtime.program import View


@dataclass(frozen=True, slots=True)
class GatedActivation:
    """`trace` records the op `op` of a gate and an input.

    `scales_through` says that a factor of the input is a factor of the result, so that AWQ may move it from
    one linear to the other. An activation that clips its input has none.
    """

    op: str
    trace: Callable[[Tracer, View, View], View]
    scales_through: bool


GATED = {"silu": GatedActivation("silu_mul", Tracer.silu_mul, scales_through=True)}
"""By the name that a config.json has for the activation."""
