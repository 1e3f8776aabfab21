"""Factors that move size between weights that follow one another and leave what they compute as it was."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from octavo.formats.groups import Floats


@dataclass(slots=True)
class Scaling:
    """Factors for a weight `[rows, cols]`: of its columns, and of its rows, or of a vector's entries.

    `importance`, `[cols]`, is the mean square of the inputs that the columns meet once they are scaled; None
    where nothing is known of them.
    """

    columns: Floats | None = None
    rows: Floats | None = None
    importance: Floats | None = None

    def apply(self, values: Floats, rows: slice | NDArray[np.intp] = slice(None)) -> Floats:
        """`values`, scaled: the weight, or some `rows` of it."""
        if self.columns is not None:
            values = values * self.columns
        if self.rows is not None:
            factors = self.rows[rows]
            values = values * (factors[:, None] if values.ndim > 1 else factors)
        return values
