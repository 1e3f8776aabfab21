"""What `octavo quantize` writes to: places for weights, filled in any order, at one go or several."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from octavo.formats.groups import Floats
from octavo.quantise.forms import Arrays
from octavo.quantise.scheme import Scheme


class Output(Protocol):
    """A checkpoint that is being written. Names are canonical."""

    def scheme(self, name: str) -> Scheme:
        """How the weight `name` is rounded and written."""
        ...

    def has(self, name: str) -> bool:
        """Whether `name` was written already."""
        ...

    def write(self, name: str, arrays: Arrays) -> None:
        """Put `name` there: an array for each piece of its scheme's form, rows in the file's order."""
        ...

    def values(self, name: str) -> Floats:
        """What was written, as floats, rows in the model's order."""
        ...

    def row_order(self, name: str) -> NDArray[np.intp] | None:
        """Which of the model's rows each row of the file is; None where they are in order."""
        ...

    def finish(self) -> None:
        """Make it whole; every weight has to be written."""
        ...
