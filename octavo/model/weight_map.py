"""What a checkpoint calls the weights of a model, and how it lays them out."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from octavo.model.row_orders import RowOrder


@dataclass(frozen=True, slots=True)
class Stored:
    """Where a checkpoint has a module's weight and bias: in `name` plus ".weight" or ".bias".

    `{}` in the name is the number of the layer. `rows` says which rows of the tensor they are, all in order
    by default. With `transpose` matrices are stored `[in, out]`. `plus` is added to a weight: 1 for a norm
    that is stored as its difference to one.
    """

    name: str
    rows: RowOrder | None = None
    transpose: bool = False
    plus: float = 0.0


@dataclass(frozen=True, slots=True)
class WeightMap:
    """A checkpoint's place for each module, "embed" or "layers.attn.q", and tensors that hold no weights.

    `ignored` are names in which `*` stands for any text and `{}` for the number of a layer beyond the last
    one: "model.layers.{}.*" leaves out the layers of multi-token prediction.
    """

    modules: Mapping[str, Stored]
    ignored: tuple[str, ...] = ()

    def changed(self, modules: Mapping[str, Stored], ignored: tuple[str, ...] = ()) -> WeightMap:
        """The same map with other places for some modules, and more tensors to ignore."""
        return WeightMap({**self.modules, **modules}, self.ignored + ignored)

    def stored(self, weight: str) -> Stored:
        """The place of the module that has the canonical `weight`."""
        module = weight.rpartition(".")[0]
        match module.split(".", 2):
            case ["layers", _, part]:
                return self.modules[f"layers.{part}"]
        return self.modules[module]

    def tensor_name(self, weight: str) -> str:
        """What the checkpoint calls the tensor: `layers.3.attn.q.bias` -> `blk.3.attn_q.bias`."""
        module, _, kind = weight.rpartition(".")
        return f"{self.stored(weight).name.format(*module.split('.')[1:2])}.{kind}"

    def ignores(self, tensor: str, num_layers: int) -> bool:
        """Whether the tensor `tensor` holds nothing that a model of `num_layers` stored layers reads."""
        for pattern in self.ignored:
            expression = re.escape(pattern).replace(r"\*", ".*").replace(r"\{\}", r"(\d{1,9})")
            if match := re.fullmatch(expression, tensor):
                return all(int(number) >= num_layers for number in match.groups())
        return False
