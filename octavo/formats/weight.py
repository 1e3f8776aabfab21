"""A weight as a checkpoint stores it: a Tensor, or one that other tensors of the file make up together."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from octavo.formats.groups import Groups
from octavo.formats.mapped import drop_pages
from octavo.formats.tensor import Encoding, Tensor, float32_of, row_slices

ROWS_TOGETHER = 8
"""Slices of rows begin at multiples of this: what one 32-bit word of 4-bit codes holds."""


@dataclass(frozen=True, slots=True)
class QuantisedWeight:
    """A weight of `shape` in the form of a quantisation method: codes here, scales there.

    `read` takes the rows of a slice apart (a row is what the last dimension spans). `runs_as` is the encoding
    that holds it best, see `octavo.formats.normalise`. `format` describes it for people, `stored_bytes` is
    what all its parts take in the checkpoint, `sources` are those parts, views of the mapped file. `order`
    is that of the columns that `read` gives, as of a Tensor.

    `fill_panels`, where there is one, makes what the kernels read of a slice of rows at once, in an array.
    """

    shape: tuple[int, ...]
    format: str
    runs_as: Encoding
    stored_bytes: int
    read: Callable[[slice], Groups]
    sources: tuple[NDArray[Any], ...] = ()
    order: NDArray[np.int32] | None = None
    fill_panels: Callable[[slice, NDArray[np.uint8]], None] | None = None

    def chunks(self) -> Iterator[Groups]:
        """All rows in order, some at a time, with their columns as they are stored."""
        rows = int(np.prod(self.shape[:-1], dtype=np.int64))
        return (self.read(each) for each in row_slices(rows, self.shape[-1], ROWS_TOGETHER))

    def to_float32(self) -> NDArray[np.float32]:
        """The values, exactly as the method defines them: an array of `shape`."""
        return float32_of(self.chunks(), self.shape, self.order)


Weight = Tensor | QuantisedWeight


def read_rows(weight: QuantisedWeight, rows: NDArray[np.intp]) -> Groups:
    """Some rows in any order, out of the slice that has them all."""
    first = int(rows.min()) // ROWS_TOGETHER * ROWS_TOGETHER
    last = -(-(int(rows.max()) + 1) // ROWS_TOGETHER) * ROWS_TOGETHER
    return weight.read(slice(first, min(last, weight.shape[0]))).take(rows - first)


def drop_source(weight: Weight) -> None:
    """Give back the memory of the mapped file that `weight` was read from; it stays good."""
    for each in (weight.data,) if isinstance(weight, Tensor) else weight.sources:
        drop_pages(each)
