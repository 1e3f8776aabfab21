"""Where a checkpoint that is written has its weights: a weight map, read the other way round."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from octavo.model.spec import ModelSpec
from octavo.model.weight_map import WeightMap
from octavo.model.weights import rows_in_tensor


class Layout:
    """The tensors of the weights `names` of `spec` in a checkpoint with the map `places`.

    Raises ValueError where a tensor holds several of them, or one that is not written as it is: octavo reads
    such checkpoints and does not write them.
    """

    def __init__(self, places: WeightMap, spec: ModelSpec, names: Iterable[str]) -> None:
        self._places, self._spec = places, spec
        taken: set[str] = set()
        for name in names:
            tensor, stored = places.tensor_name(name), places.stored(name)
            if tensor in taken or stored.transpose or stored.plus:
                raise ValueError(f"octavo does not write the tensor {tensor} of a {spec.family} model")
            taken.add(tensor)

    def tensor_name(self, name: str) -> str:
        """What the checkpoint calls the weight `name`."""
        return self._places.tensor_name(name)

    def row_order(self, name: str, count: int) -> NDArray[np.intp] | None:
        """Which of the model's `count` rows each row of the tensor is; None where they are in order."""
        rows = rows_in_tensor(self._places, self._spec, name, count)
        return None if rows is None else np.argsort(rows)
