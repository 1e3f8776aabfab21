"""A model's weights as floats, one at a time, in the order and under the names that octavo runs them in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from octavo.formats.arranged import AnyWeight, some_rows, source_of
from octavo.formats.gguf import GGUFFile
from octavo.formats.groups import Floats
from octavo.formats.safetensors import SafetensorsDirectory
from octavo.formats.weight import drop_source
from octavo.model.spec import ModelSpec
from octavo.model.weights import stored_weights


class Source(Mapping[str, Floats]):
    """The weights of `checkpoint` by canonical name: each is dequantised anew when it is asked for.

    `stored` are the same as the checkpoint has them. Tied embeddings are under both names. Of the mapped file
    no more stays in memory than the weight that was asked for last. Raises ValueError as `stored_weights`.
    """

    def __init__(self, checkpoint: GGUFFile | SafetensorsDirectory, spec: ModelSpec) -> None:
        self.path: Path = checkpoint.path
        self.spec = spec
        self.stored: dict[str, AnyWeight] = stored_weights(checkpoint, spec)
        self._latest: AnyWeight | None = None

    def __getitem__(self, name: str) -> Floats:
        return self._weight(name).to_float32()

    def __iter__(self) -> Iterator[str]:
        return iter(self.stored)

    def __len__(self) -> int:
        return len(self.stored)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of the weight `name`."""
        return self._weight(name).shape

    def rows(self, name: str, rows: NDArray[np.intp]) -> Floats:
        """Some rows of a matrix, in any order: `[len(rows), cols]`."""
        return some_rows(self._weight(name), rows)

    def _weight(self, name: str) -> AnyWeight:
        if name == "lm_head.weight" and self.spec.head.tied:
            name = "embed.weight"
        weight = self.stored[name]
        if self._latest is not None and self._latest is not weight:
            drop_source(source_of(self._latest))
        self._latest = weight
        return weight
