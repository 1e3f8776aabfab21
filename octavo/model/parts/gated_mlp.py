"""The gated MLP (GLU variants, Shazeer, 2020): SwiGLU and its like."""

from __future__ import annotations

from dataclasses import dataclass

from octavo.model.bounds import MAX_COLS, check_size
from octavo.model.parts.activation import GATED
from octavo.model.parts.place import Place
from octavo.runtime.ops import Tracer
from octavo.runtime.program import View


@dataclass(frozen=True, slots=True, kw_only=True)
class GatedMLP:
    """`down(activation(gate(x)) * up(x))` through `width` columns.

    `activation` is one of `octavo.model.parts.activation.GATED`, `bias` says whether the three linears have
    one. Raises ValueError naming the field for another.
    """

    width: int
    activation: str = "silu"
    bias: bool = False

    def __post_init__(self) -> None:
        check_size("intermediate_size", self.width, MAX_COLS)
        if self.activation not in GATED:
            raise ValueError(f"activation is {self.activation!r:.80}; octavo has {', '.join(GATED)}")

    def trace(self, ops: Tracer, place: Place, x: View, residual: View) -> View:
        """The MLP of `x` plus `residual`."""
        gate_up = place.linear(ops, x, {"mlp.gate": self.width, "mlp.up": self.width}, bias=self.bias)
        gate, up = gate_up.columns(0, self.width), gate_up.columns(self.width, self.width)
        hidden = GATED[self.activation].trace(ops, gate, up)
        return place.linear(ops, hidden, {"mlp.down": place.hidden_size}, bias=self.bias, residual=residual)
