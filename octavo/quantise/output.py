"""What `octavo quantize` writes to: places for weights, filled in any order, at one go or several."""

from __future__ import annotations

from typing import Protocol

from octavo.formats.groups import Floats
from octavo.quantise.forms import Arrays
from octavo.quantise.scheme import Scheme


class Output(Protocol):
    """A checkpoint that is being written. Names are canonical, rows in the order that octavo runs them in."""

    def scheme(self, name: str) -> Scheme:
        """How the weight `name` is rounded and written."""
        ...

    def has(self, name: str) -> bool:
        """Whether `name` was written already."""
        ...

    def write(self, name: str, arrays: Arrays) -> None:
        """Put `name` there: an array for each piece of its scheme's form, those with rows whole."""
        ...

    def values(self, name: str) -> Floats:
        """What was written, as floats."""
        ...

    def stored_order(self, name: str) -> bool:
        """Whether rows are written in the order of interleaved rotary pairs."""
        ...

    def finish(self) -> None:
        """Make it whole; every weight has to be written."""
        ...
