"""A model's weights as floats, one at a time, in the order and under the names that octavo runs them in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from octavo.formats.gguf import GGUFFile
from octavo.formats.groups import Floats
from octavo.formats.safetensors import SafetensorsDirectory
from octavo.formats.tensor import Tensor
from octavo.formats.weight import ROWS_TOGETHER, Weight, drop_source
from octavo.model.families.registry import family_of
from octavo.model.spec import DecoderSpec
from octavo.model.weights import half_split_order, stored_weights


class Source(Mapping[str, Floats]):
    """The weights of `checkpoint` by canonical name: each is dequantised anew when it is asked for.

    `stored` are the same as the checkpoint has them. Tied embeddings are under both names. Of the mapped file
    no more stays in memory than the weight that was asked for last. Raises ValueError as `stored_weights`.
    """

    def __init__(self, checkpoint: GGUFFile | SafetensorsDirectory, spec: DecoderSpec) -> None:
        self.path: Path = checkpoint.path
        self.spec = spec
        self.stored: dict[str, Weight] = stored_weights(checkpoint, spec)
        self._latest: Weight | None = None
        self._interleaved = isinstance(checkpoint, GGUFFile) and family_of(checkpoint).gguf_interleaved

    def __getitem__(self, name: str) -> Floats:
        values = self._weight(name).to_float32()
        return values[self.row_order(name)] if self.is_interleaved(name) else values

    def __iter__(self) -> Iterator[str]:
        return iter(self.stored)

    def __len__(self) -> int:
        return len(self.stored)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of the weight `name`."""
        return self._weight(name).shape

    def rows(self, name: str, rows: NDArray[np.intp]) -> Floats:
        """Some rows of a matrix, in any order: `[len(rows), cols]`."""
        weight = self._weight(name)
        if self.is_interleaved(name):
            rows = self.row_order(name)[rows]
        if isinstance(weight, Tensor):
            return weight.take_rows(rows).to_float32()
        first = int(rows.min()) // ROWS_TOGETHER * ROWS_TOGETHER
        return weight.read(slice(first, int(rows.max()) + 1)).values()[rows - first]

    def is_interleaved(self, name: str) -> bool:
        """Whether the checkpoint has the rows of `name` in the order of interleaved rotary pairs."""
        return self._interleaved and (".attn.q." in name or ".attn.k." in name)

    def row_order(self, name: str) -> NDArray[np.intp]:
        """Which interleaved row each row of q or k is."""
        return half_split_order(self.shape(name)[0], self.spec.head_dim)

    def _weight(self, name: str) -> Weight:
        if name == "lm_head.weight" and self.spec.tie_embeddings:
            name = "embed.weight"
        weight = self.stored[name]
        if self._latest is not None and self._latest is not weight:
            drop_source(self._latest)
        self._latest = weight
        return weight
