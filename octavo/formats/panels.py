"""Matrices that are made in the kernels' own layout, panels of rows, without being a Tensor before."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from octavo.formats.tensor import Encoding

PANEL_ROWS = 16
"""Rows of a packed panel."""

_PIECE_VALUES = 1 << 20
"""Values of a matrix that are made at a time: enough for the disk, little memory beside the whole."""


@dataclass(frozen=True, slots=True)
class PanelRows:
    """A matrix of `shape` that runs as `encoding`. `fill` makes the panels of a slice of its rows.

    Slices begin at multiples of `rows_together`, itself one of PANEL_ROWS. Several may be made at once.
    """

    shape: tuple[int, int]
    encoding: Encoding
    rows_together: int
    fill: Callable[[slice, NDArray[np.uint8]], None]

    def slices(self) -> Iterator[slice]:
        """All rows, some at a time."""
        rows, cols = self.shape
        step = max(1, _PIECE_VALUES // (cols * self.rows_together)) * self.rows_together
        return (slice(start, min(start + step, rows)) for start in range(0, rows, step))


@runtime_checkable
class MakesPanels(Protocol):
    """Weights some of which are there as panels at less cost than as Tensors."""

    def panel_rows(self, name: str) -> PanelRows | None:
        """How the panels of a matrix are made; None where it is packed from its Tensor."""
        ...
