"""A canonical weight: raw bytes in one of a few encodings, and how to read them as float32.

The bytes stay where the file mapped them until a backend packs them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from octavo.formats import block_quants, codebook_quants, k_quants
from octavo.formats.groups import Groups

CHUNK_VALUES = 1 << 17
"""Values that are taken apart at a time: enough for NumPy, few enough to stay in a core's cache."""


class Encoding(Enum):
    """How the values of a tensor are stored: (name, values stored together, bytes that they take).

    Those after BF16 are llama.cpp's, along a row; `block_quants`, `k_quants` and `codebook_quants` say what
    their bytes mean. Four are octavo's own. U8_1 is Q4_1 with whole bytes as codes. F8_E4M3 is E4M3 floats
    with a float32 scale. NF4 and FP4 are IQ4_NL with tables of their own.
    """

    F32 = ("F32", 1, 4)
    F16 = ("F16", 1, 2)
    BF16 = ("BF16", 1, 2)
    F8_E4M3 = ("F8_E4M3", 32, 36)
    Q4_0 = ("Q4_0", 32, 18)
    Q4_1 = ("Q4_1", 32, 20)
    Q5_0 = ("Q5_0", 32, 22)
    Q5_1 = ("Q5_1", 32, 24)
    Q8_0 = ("Q8_0", 32, 34)
    U8_1 = ("U8_1", 32, 36)
    Q2_K = ("Q2_K", 256, 84)
    Q3_K = ("Q3_K", 256, 110)
    Q4_K = ("Q4_K", 256, 144)
    Q5_K = ("Q5_K", 256, 176)
    Q6_K = ("Q6_K", 256, 210)
    Q8_K = ("Q8_K", 256, 292)
    IQ4_NL = ("IQ4_NL", 32, 18)
    IQ4_XS = ("IQ4_XS", 256, 136)
    MXFP4 = ("MXFP4", 32, 17)
    NF4 = ("NF4", 32, 18)
    FP4 = ("FP4", 32, 18)

    group_size: int
    group_bytes: int

    def __new__(cls, name: str, group_size: int, group_bytes: int) -> Encoding:
        """A member whose value is its name."""
        member = object.__new__(cls)
        member._value_ = name
        member.group_size, member.group_bytes = group_size, group_bytes
        return member

    @property
    def is_float(self) -> bool:
        """Whether it is multiplied in float32; the others are multiplied as integers."""
        return self.value in ("F32", "F16", "BF16", "F8_E4M3")


_DECODERS: dict[Encoding, Callable[[NDArray[np.uint8]], Groups]] = {
    Encoding.F8_E4M3: block_quants.f8_e4m3,
    Encoding.Q4_0: block_quants.q4_0,
    Encoding.Q4_1: block_quants.q4_1,
    Encoding.Q5_0: block_quants.q5_0,
    Encoding.Q5_1: block_quants.q5_1,
    Encoding.Q8_0: block_quants.q8_0,
    Encoding.U8_1: block_quants.u8_1,
    Encoding.Q2_K: k_quants.q2_k,
    Encoding.Q3_K: k_quants.q3_k,
    Encoding.Q4_K: k_quants.q4_k,
    Encoding.Q5_K: k_quants.q5_k,
    Encoding.Q6_K: k_quants.q6_k,
    Encoding.Q8_K: k_quants.q8_k,
    Encoding.IQ4_NL: codebook_quants.iq4_nl,
    Encoding.IQ4_XS: codebook_quants.iq4_xs,
    Encoding.MXFP4: codebook_quants.mxfp4,
    Encoding.NF4: codebook_quants.nf4,
    Encoding.FP4: codebook_quants.fp4,
}


@dataclass(frozen=True, slots=True, weakref_slot=True)
class Tensor:
    """A weight of `shape` (rows first, as in PyTorch) whose `data` are its raw bytes, one row after another.

    `data` is a uint8 view, usually of a mapped file, of exactly
    `rows * row_bytes` bytes, where a 1-D tensor is one row. With an `order`, int32 `[cols]`, the i-th stored
    column is column `order[i]` of the weight: columns that share a scale are not neighbours in it.
    """

    shape: tuple[int, ...]
    encoding: Encoding
    data: NDArray[np.uint8]
    order: NDArray[np.int32] | None = None

    def __post_init__(self) -> None:
        group = self.encoding.group_size
        if not self.shape or self.shape[-1] % group:
            raise ValueError(
                f"shape {self.shape} does not divide into {self.encoding.value} groups of {group}"
            )
        if self.data.size != self.rows * self.row_bytes:
            raise ValueError(
                f"{self.encoding.value} of shape {self.shape} takes {self.rows * self.row_bytes} bytes, "
                f"not {self.data.size}"
            )

    @property
    def rows(self) -> int:
        """Number of rows: the product of all dimensions but the last."""
        return int(np.prod(self.shape[:-1], dtype=np.int64))

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return self.shape[-1] // self.encoding.group_size * self.encoding.group_bytes

    @property
    def format(self) -> str:
        """What the values are stored as, for people."""
        return str(self.encoding.value)

    @property
    def stored_bytes(self) -> int:
        """Bytes that the checkpoint takes for it."""
        return self.data.size

    @classmethod
    def from_array(cls, array: NDArray[np.float32]) -> Tensor:
        """A float32 tensor that holds `array`."""
        array = np.ascontiguousarray(array, dtype=np.float32)
        return cls(array.shape, Encoding.F32, array.reshape(-1).view(np.uint8))

    def take_rows(self, order: NDArray[np.intp]) -> Tensor:
        """Some rows in `order`, copied; any encoding, since rows are stored whole. A vector's are entries."""
        rows = self.data.reshape(self.shape[0], -1)[order]
        return Tensor((len(order), *self.shape[1:]), self.encoding, rows.reshape(-1), self.order)

    def to_float32(self) -> NDArray[np.float32]:
        """The values, exactly: an array of `shape`."""
        data = np.ascontiguousarray(self.data)
        match self.encoding:
            case Encoding.F32:
                return data.view(np.float32).reshape(self.shape)
            case Encoding.F16:
                return data.view(np.float16).astype(np.float32).reshape(self.shape)
            case Encoding.BF16:
                bits = data.view(np.uint16).astype(np.uint32)
                bits <<= np.uint32(16)
                return bits.view(np.float32).reshape(self.shape)
        return float32_of(self.chunks(), self.shape, self.order)

    def chunks(self) -> Iterator[Groups]:
        """The rows of a quantised tensor in order, some at a time, as its encoding defines them.

        Their columns are as they are stored.
        """
        return self.chunks_by(_DECODERS[self.encoding])

    def chunks_by(self, decode: Callable[[NDArray[np.uint8]], Groups]) -> Iterator[Groups]:
        """As `chunks`, with another function from blocks `[N, group_bytes]` to their groups."""
        blocks = self.data.reshape(self.rows, -1, self.encoding.group_bytes)
        for rows in row_slices(self.rows, self.shape[-1]):
            part = blocks[rows]
            yield decode(part.reshape(-1, part.shape[2])).in_rows_of(part.shape[1])


def row_slices(rows: int, cols: int, multiple: int = 1) -> Iterator[slice]:
    """All rows in slices of some `CHUNK_VALUES` values, each but the last a multiple of `multiple`."""
    step = max(multiple, CHUNK_VALUES // cols // multiple * multiple)
    return (slice(start, min(start + step, rows)) for start in range(0, rows, step))


def float32_of(
    chunks: Iterator[Groups], shape: tuple[int, ...], order: NDArray[np.int32] | None = None
) -> NDArray[np.float32]:
    """The values of all chunks of rows: an array of `shape`, whose columns `order` puts back in place."""
    values = np.empty((int(np.prod(shape[:-1], dtype=np.int64)), shape[-1]), np.float32)
    columns = slice(None) if order is None else order
    row = 0
    for chunk in chunks:
        values[row : row + len(chunk.codes), columns] = chunk.values()
        row += len(chunk.codes)
    return values.reshape(shape)
