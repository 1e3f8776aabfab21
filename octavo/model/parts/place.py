"""Where in a model a part stands: what it has to know beside its own record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from octavo.model.rope import Rope
from octavo.runtime.ops import Tracer
from octavo.runtime.program import View


@dataclass(frozen=True, slots=True)
class Place:
    """A layer of a model whose weights' names begin with `name`, such as "layers.3".

    `ropes` are the model's rotary embeddings, by name.
    """

    name: str
    hidden_size: int
    ropes: Mapping[str, Rope]

    def linear(
        self, ops: Tracer, x: View, widths: Mapping[str, int], *, bias: bool, residual: View | None = None
    ) -> View:
        """The linears of the parts in `widths`, with so many outputs each, as one op on `x`."""
        weights = [(f"{self.name}.{part}.weight", width) for part, width in widths.items()]
        biases = [f"{self.name}.{part}.bias" for part in widths] if bias else ()
        return ops.linear(x, weights, biases, residual)
