"""Factors that move size between weights that follow one another and leave what they compute as it was."""

from __future__ import annotations

from dataclasses import dataclass

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

    def apply(self, values: Floats, first_row: int = 0) -> Floats:
        """`values`, scaled: the weight, or some of its rows from `first_row` on."""
        if self.columns is not None:
            values = values * self.columns
        if self.rows is not None:
            rows = self.rows[first_row : first_row + len(values)]
            values = values * (rows[:, None] if values.ndim > 1 else rows)
        return values
