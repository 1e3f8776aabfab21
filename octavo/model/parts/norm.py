"""RMSNorm (Zhang and Sennrich, 2019)."""

from __future__ import annotations

from dataclasses import dataclass

from octavo.runtime.ops import Tracer
from octavo.runtime.program import View


@dataclass(frozen=True, slots=True)
class RMSNorm:
    """A row divided by its root mean square, times a weight. Raises ValueError unless `eps` is positive."""

    eps: float

    def __post_init__(self) -> None:
        if not self.eps > 0:
            raise ValueError(f"norm_eps must be positive, got {self.eps}")

    def trace(self, ops: Tracer, name: str, x: View) -> View:
        """Each row of `x` with the weight of the norm `name`."""
        return ops.rms_norm(x, f"{name}.weight", self.eps)

    def trace_heads(self, ops: Tracer, name: str, x: View, head_dim: int) -> View:
        """Each head of `x`, in place, with one weight `[head_dim]` for all."""
        return ops.head_rms_norm(x, f"{name}.weight", head_dim, self.eps)
