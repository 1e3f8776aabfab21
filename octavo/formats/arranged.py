"""A weight that a checkpoint arranges otherwise: in rows of a larger tensor, in another order, transposed.

Nothing is moved before the weight is asked for.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from octavo.formats.groups import Floats, Groups
from octavo.formats.tensor import Tensor
from octavo.formats.weight import QuantisedWeight, Weight, read_rows

Rows = NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Arranged:
    """Row `i` is row `rows[i]` of `source`, or of its transpose; `plus` is added to each value.

    Raises ValueError for a transpose of what is not a matrix of 16 or 32 bits: the values of a quantised row
    share scales that those of a column do not.
    """

    source: Weight
    rows: Rows | None = None
    transpose: bool = False
    plus: float = 0.0

    def __post_init__(self) -> None:
        if self.transpose:
            _item_type(self.source)

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows first, as of any weight."""
        shape = self.source.shape[::-1] if self.transpose else self.source.shape
        return shape if self.rows is None else (len(self.rows), *shape[1:])

    @property
    def format(self) -> str:
        """What the values are stored as, for people."""
        return self.source.format

    @property
    def stored_bytes(self) -> int:
        """Bytes that the checkpoint takes for it: its share of the source."""
        all_values = int(np.prod(self.source.shape, dtype=np.int64))
        return self.source.stored_bytes * int(np.prod(self.shape, dtype=np.int64)) // all_values

    def take(self, rows: slice | Rows = slice(None)) -> Weight:
        """Some rows of it. Those of a Tensor are copied, others are read when they are asked for."""
        chosen = (np.arange(self.shape[0]) if self.rows is None else self.rows)[rows]
        if isinstance(self.source, QuantisedWeight):
            return _rows_of_quantised(self.source, chosen)
        if self.transpose:
            items = self.source.data.view(_item_type(self.source)).reshape(self.source.shape)
            turned = np.ascontiguousarray(items[:, chosen].T)
            taken = Tensor(turned.shape, self.source.encoding, turned.reshape(-1).view(np.uint8))
        else:
            taken = self.source.take_rows(chosen)
        return Tensor.from_array(taken.to_float32() + np.float32(self.plus)) if self.plus else taken

    def to_float32(self) -> Floats:
        """The values: an array of `shape`."""
        return self.take().to_float32()


AnyWeight = Weight | Arranged
"""A weight of a model, however its checkpoint holds it."""


def arrange(source: Weight, rows: Rows | None, *, transpose: bool = False, plus: float = 0.0) -> AnyWeight:
    """`Arranged`, or what is the same without a copy: the source, or a view of neighbouring rows."""
    if transpose or plus:
        return Arranged(source, rows, transpose, plus)
    if rows is None:
        return source
    neighbours = len(rows) and np.array_equal(rows, np.arange(rows[0], rows[0] + len(rows)))
    if not neighbours or not isinstance(source, Tensor):
        return Arranged(source, rows)
    first, last, items = int(rows[0]), int(rows[-1]) + 1, source.shape[0]
    data = source.data.reshape(items, -1)[first:last].reshape(-1)
    return Tensor((last - first, *source.shape[1:]), source.encoding, data, source.order)


def source_of(weight: AnyWeight) -> Weight:
    """What the checkpoint holds."""
    return weight.source if isinstance(weight, Arranged) else weight


def some_rows(weight: AnyWeight, rows: Rows) -> Floats:
    """Some rows of a matrix, in any order: `[len(rows), cols]`."""
    match weight:
        case Tensor():
            return weight.take_rows(rows).to_float32()
        case QuantisedWeight():
            return _rows_of_quantised(weight, rows).to_float32()
    return weight.take(rows).to_float32()


def _rows_of_quantised(weight: QuantisedWeight, rows: Rows) -> QuantisedWeight:
    def read(part: slice) -> Groups:
        return read_rows(weight, rows[part])

    share = weight.stored_bytes * len(rows) // weight.shape[0]
    return replace(
        weight, shape=(len(rows), *weight.shape[1:]), stored_bytes=share, read=read, fill_panels=None
    )


def _item_type(weight: Weight) -> type[np.uint16] | type[np.uint32]:
    if not isinstance(weight, Tensor) or weight.encoding.group_size > 1 or len(weight.shape) != 2:
        raise ValueError(f"is {weight.format} of shape {weight.shape}, which octavo does not transpose")
    return np.uint16 if weight.encoding.group_bytes == 2 else np.uint32
