"""A layer of a decoder: its parts, and how they stand between norms and residuals."""

from __future__ import annotations

from dataclasses import dataclass

from octavo.model.parts.attention import Attention
from octavo.model.parts.gated_mlp import GatedMLP
from octavo.model.parts.norm import RMSNorm
from octavo.model.parts.place import Place
from octavo.runtime.ops import Tracer
from octavo.runtime.program import View


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerSpec:
    """What mixes a token with others, what works on each alone, and the norm ahead of either.

    A layer may be without one of the two. `stored` is the number of the layer in the checkpoint that has the
    weights; None is the layer's own place. Layers with the same number share their weights: a loop.
    Raises ValueError for a layer without any part.
    """

    mixer: Attention | None
    mlp: GatedMLP | None
    norm: RMSNorm
    stored: int | None = None

    def __post_init__(self) -> None:
        if self.mixer is None and self.mlp is None:
            raise ValueError("a layer needs a mixer or an mlp")

    def trace(self, ops: Tracer, place: Place, x: View, *, gather: bool) -> View:
        """`y = x + mixer(norm(x))`, then `y + mlp(norm(y))`: the pre-norm block.

        With `gather` only the rows that want logits go on after the mixer, since nothing reads the others.
        """
        if self.mixer is not None:
            mixed = self.mixer.trace(ops, place, self.norm.trace(ops, f"{place.name}.attn_norm", x))
            if gather:
                mixed, x = ops.gather_rows(mixed), ops.gather_rows(x)
            x = self.mixer.project(ops, place, mixed, residual=x)
        if self.mlp is not None:
            normed = self.norm.trace(ops, f"{place.name}.mlp_norm", x)
            x = self.mlp.trace(ops, place, normed, residual=x)
        return x
