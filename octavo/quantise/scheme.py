"""What each format of `octavo quantize` rounds matrices to and how it writes them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from octavo.formats.groups import Floats, Groups
from octavo.formats.rounding import (
    E4M3_MAX,
    GROUP,
    float8_rows,
    nearest_e4m3,
    round_int4,
    round_int4_minimums,
    round_int4_zero_points,
    round_int8,
)
from octavo.formats.tensor import Encoding
from octavo.quantise.config import QuantiseConfig
from octavo.quantise.forms import Blocks, Float8, Form, Packed, Plain

Rounding = Callable[[Floats, Floats | None], Groups]


@dataclass(frozen=True, slots=True)
class Scheme:
    """How a matrix is rounded, the range of its codes, and the form that it is written in.

    Rows have to be whole groups of `size`; 1 fits every row. Codes are integers, or numbers of E4M3.
    """

    round: Rounding
    low: float
    high: float
    form: Form
    size: int = GROUP

    def nearest(self, values: Floats) -> Floats:
        """The nearest codes to `values`, which are in units of the scales."""
        if isinstance(self.form, Float8):
            return nearest_e4m3(values)
        return np.clip(np.rint(values), self.low, self.high)


def scheme_of(config: QuantiseConfig) -> Scheme:
    """The scheme of the linears of a layer."""
    size = config.group_size or GROUP
    match config.format:
        case "int8":
            return Scheme(lambda v, _: round_int8(v, size), -127, 127, Packed(8, size, False), size)
        case "int4" if config.zero_points:
            return Scheme(
                lambda v, importance: round_int4_zero_points(v, size, importance),
                0,
                15,
                Packed(4, size, True),
                size,
            )
        case "int4":
            return Scheme(
                lambda v, importance: round_int4(v, size, importance), -8, 7, Packed(4, size, False), size
            )
        case "fp8":
            return Scheme(lambda v, _: float8_rows(v), -E4M3_MAX, E4M3_MAX, Float8(), 1)
        case "gguf-q8_0":
            return Q8_0
        case "gguf-q4_0":
            return Scheme(
                lambda v, importance: round_int4(v, GROUP, importance), -8, 7, Blocks(Encoding.Q4_0)
            )
        case "gguf-q4_1":
            return Scheme(
                lambda v, importance: round_int4_minimums(v, GROUP, importance),
                0,
                15,
                Blocks(Encoding.Q4_1),
            )
    return plain_scheme(config.format.removeprefix("gguf-").upper())


def plain_scheme(dtype: str) -> Scheme:
    """No rounding but to the dtype."""
    return Scheme(_as_they_are, 0, 0, Plain(dtype), 1)


def _as_they_are(values: Floats, importance: Floats | None) -> Groups:
    return Groups(values[:, None], np.ones((len(values), 1), np.float32))


Q8_0 = Scheme(lambda values, _: round_int8(values), -127, 127, Blocks(Encoding.Q8_0))
"""What a GGUF file has its embedding and head in where its layers have fewer bits."""
