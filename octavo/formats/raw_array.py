"""An array of a safetensors file in any dtype that the formats know, 8-bit floats among them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

DTYPES: dict[str, type[np.generic]] = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": np.uint16,
    "F8_E4M3": np.uint8,
    "F8_E8M0": np.uint8,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U8": np.uint8,
}
"""What NumPy holds each safetensors dtype in; the floats that it does not have are held as their bits."""


@dataclass(frozen=True, slots=True)
class RawArray:
    """`values` in the NumPy type of the safetensors `dtype`, a view of the mapped file."""

    dtype: str
    values: NDArray[Any]

    @property
    def shape(self) -> tuple[int, ...]:
        """Its dimensions; () for a scalar."""
        return self.values.shape

    def to_float32(self) -> NDArray[np.float32]:
        """The numbers, exactly but for float64, which is rounded."""
        match self.dtype:
            case "BF16":
                bits: NDArray[np.uint32] = self.values.astype(np.uint32) << np.uint32(16)
                return bits.view(np.float32)
            case "F8_E4M3":
                return E4M3.take(self.values)
            case "F8_E8M0":
                powers: NDArray[np.float32] = np.ldexp(np.float32(1), self.values.astype(np.int32) - 127)
                return powers
        numbers: NDArray[np.float32] = self.values.astype(np.float32)
        return numbers


def _e4m3() -> NDArray[np.float32]:
    codes = np.arange(256)
    exponents, fractions = codes >> 3 & 15, codes & 7
    normal = np.ldexp(8.0 + fractions, exponents - 10)
    magnitudes = np.where(exponents == 0, np.ldexp(fractions, -9), normal)
    magnitudes[codes & 127 == 127] = np.nan
    numbers: NDArray[np.float32] = np.where(codes < 128, magnitudes, -magnitudes).astype(np.float32)
    return numbers


E4M3 = _e4m3()
"""What each byte stands for as an E4M3 float without infinities (Micikevicius et al., 2022)."""
