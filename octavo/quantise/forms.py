"""How a rounded matrix is laid out in a file: the tensors that it becomes, and their bytes.

The layouts are what `octavo.formats.quantised.compressed_tensors` and `octavo.formats.block_quants` read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from octavo.formats.groups import Floats, Groups
from octavo.formats.normalise import pack
from octavo.formats.raw_array import DTYPES
from octavo.formats.rounding import encode_e4m3
from octavo.formats.tensor import Encoding

Arrays = list[NDArray[Any]]
Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Piece:
    """A tensor as it is written: the end of its name, its dtype, and its shape."""

    suffix: str
    dtype: str
    shape: Shape

    @property
    def nbytes(self) -> int:
        """Bytes that it takes."""
        return int(np.prod(self.shape, dtype=np.int64)) * np.dtype(DTYPES[self.dtype]).itemsize


class Form(Protocol):
    """A layout. `encode` takes rows of a matrix, whole eights but for the last, and gives arrays."""

    def pieces(self, shape: Shape) -> list[Piece]:
        """The tensors that a matrix of `shape` becomes, those with rows first."""
        ...

    def encode(self, groups: Groups) -> Arrays:
        """The rows' part of each piece that has rows."""
        ...


@dataclass(frozen=True, slots=True)
class Packed:
    """compressed-tensors' pack-quantized: codes of `bits` bits in 32-bit words, perhaps zero points."""

    bits: int
    size: int
    zero_points: bool

    def pieces(self, shape: Shape) -> list[Piece]:
        """weight_packed, weight_scale, perhaps weight_zero_point, and weight_shape."""
        rows, cols = shape
        groups = cols // self.size
        packed = Piece(".weight_packed", "I32", (rows, cols * self.bits // 32))
        pieces = [packed, Piece(".weight_scale", "F16", (rows, groups))]
        if self.zero_points:
            pieces.append(Piece(".weight_zero_point", "I32", (-(-rows * self.bits // 32), groups)))
        return [*pieces, Piece(".weight_shape", "I64", (2,))]

    def encode(self, groups: Groups) -> Arrays:
        """Codes become unsigned by half their range."""
        half = 0 if self.zero_points else 1 << (self.bits - 1)
        codes = (groups.codes.astype(np.int16) + half).astype(np.uint8).reshape(len(groups.codes), -1)
        arrays: Arrays = [_words(codes, self.bits), groups.scales.astype(np.float16)]
        if groups.zeros is not None:
            zeros = groups.zeros.astype(np.uint8)
            padded = np.pad(zeros, ((0, -len(zeros) % (32 // self.bits)), (0, 0)))
            arrays.append(np.ascontiguousarray(_words(padded.T, self.bits).T))
        return arrays


@dataclass(frozen=True, slots=True)
class Float8:
    """compressed-tensors' float-quantized: E4M3 and a scale a row."""

    def pieces(self, shape: Shape) -> list[Piece]:
        """weight and weight_scale."""
        return [Piece(".weight", "F8_E4M3", shape), Piece(".weight_scale", "F32", (shape[0], 1))]

    def encode(self, groups: Groups) -> Arrays:
        """The codes are values of E4M3 already."""
        return [encode_e4m3(groups.codes.reshape(len(groups.codes), -1)), groups.scales]


@dataclass(frozen=True, slots=True)
class Plain:
    """Numbers of 16 or 32 bits."""

    dtype: str

    def pieces(self, shape: Shape) -> list[Piece]:
        """weight."""
        return [Piece("", self.dtype, shape)]

    def encode(self, groups: Groups) -> Arrays:
        """The values, rounded to the nearest."""
        return [plain(groups.values(), self.dtype)]


@dataclass(frozen=True, slots=True)
class Blocks:
    """One of llama.cpp's blocks."""

    encoding: Encoding

    def pieces(self, shape: Shape) -> list[Piece]:
        """The bytes of the rows' blocks."""
        row_bytes = shape[-1] // self.encoding.group_size * self.encoding.group_bytes
        return [Piece("", "U8", (*shape[:-1], row_bytes))]

    def encode(self, groups: Groups) -> Arrays:
        """The scales are numbers of float16."""
        blocks = pack(groups, self.encoding)
        assert blocks is not None, "scales are rounded to float16 before"
        return [blocks.reshape(len(groups.codes), -1)]


def plain(values: Floats, dtype: str) -> NDArray[Any]:
    """`values` in F32, F16 or BF16, ties to even. Raises ValueError for what is too large."""
    if dtype == "BF16":
        bits = values.astype(np.float32).view(np.uint32)
        return ((bits + np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1))) >> np.uint32(16)).astype(
            np.uint16
        )
    with np.errstate(over="ignore"):
        numbers: NDArray[Any] = values.astype(DTYPES[dtype])
    if not np.isfinite(numbers).all():
        raise ValueError(f"has values that are not finite in {dtype}")
    return numbers


def _words(codes: NDArray[np.uint8], bits: int) -> NDArray[np.int32]:
    """`[n, m]` codes as `[n, m * bits / 32]` words, the first in the lowest bits."""
    if bits == 4:
        codes = codes[:, ::2] | codes[:, 1::2] << np.uint8(4)
    return np.ascontiguousarray(codes).view(np.int32)
