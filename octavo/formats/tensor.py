"""A canonical weight: raw bytes in one of a few encodings, and how to read them as float32.

Every checkpoint format lands here. The bytes stay where the file mapped them until a backend packs them.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import numpy as np
from numpy.typing import NDArray


class Encoding(Enum):
    """How the values of a tensor are stored. The Q ones are llama.cpp's: groups of 32 along a row."""

    F32 = "F32"
    F16 = "F16"
    BF16 = "BF16"
    Q8_0 = "Q8_0"
    """Per 32 values: float16 scale d, 32 x int8 q; value = d q."""
    Q4_0 = "Q4_0"
    """Per 32 values: float16 d, 16 bytes; value i is d (low nibble of byte i - 8), i + 16 its high one."""
    Q4_1 = "Q4_1"
    """Per 32 values: float16 d, float16 m, 16 bytes; value = d nibble + m, nibbles as in Q4_0."""

    @property
    def group_size(self) -> int:
        """Values stored together."""
        return 32 if self.value.startswith("Q") else 1

    @property
    def group_bytes(self) -> int:
        """Bytes of one group."""
        return {"F32": 4, "F16": 2, "BF16": 2, "Q8_0": 34, "Q4_0": 18, "Q4_1": 20}[self.value]


@dataclass(frozen=True, slots=True)
class Tensor:
    """A weight of `shape` (rows first, as in PyTorch) whose `data` are its raw bytes, one row after another.

    `data` is a uint8 view, usually of a mapped file, of exactly
    `rows * row_bytes` bytes, where a 1-D tensor is one row.
    """

    shape: tuple[int, ...]
    encoding: Encoding
    data: NDArray[np.uint8]

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

    @classmethod
    def from_array(cls, array: NDArray[np.float32]) -> Tensor:
        """A float32 tensor that holds `array`."""
        array = np.ascontiguousarray(array, dtype=np.float32)
        return cls(array.shape, Encoding.F32, array.reshape(-1).view(np.uint8))

    def take_rows(self, order: NDArray[np.intp]) -> Tensor:
        """The tensor with its rows in `order`, copied; any encoding, since rows are stored whole."""
        rows = self.data.reshape(self.rows, self.row_bytes)[order]
        return Tensor((len(order), *self.shape[1:]), self.encoding, rows.reshape(-1))

    def to_float32(self) -> NDArray[np.float32]:
        """The values, exactly: an array of `shape`."""
        return _decode(self.encoding, np.ascontiguousarray(self.data)).reshape(self.shape)


def _decode(encoding: Encoding, data: NDArray[np.uint8]) -> NDArray[np.float32]:
    match encoding:
        case Encoding.F32:
            return data.view(np.float32)
        case Encoding.F16:
            return data.view(np.float16).astype(np.float32)
        case Encoding.BF16:
            return (data.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
        case Encoding.Q8_0:
            groups = data.reshape(-1, 34)
            scale = groups[:, :2].copy().view(np.float16).astype(np.float32)
            return scale * groups[:, 2:].view(np.int8).astype(np.float32)
        case Encoding.Q4_0:
            groups = data.reshape(-1, 18)
            scale = groups[:, :2].copy().view(np.float16).astype(np.float32)
            return scale * (_nibbles(groups[:, 2:]).astype(np.float32) - 8.0)
        case Encoding.Q4_1:
            groups = data.reshape(-1, 20)
            scale = groups[:, :2].copy().view(np.float16).astype(np.float32)
            minimum = groups[:, 2:4].copy().view(np.float16).astype(np.float32)
            return scale * _nibbles(groups[:, 4:]).astype(np.float32) + minimum


def _nibbles(packed: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """`[groups, 16]` bytes as `[groups, 32]` values: the 16 low nibbles, then the 16 high ones."""
    return np.concatenate([packed & 15, packed >> 4], axis=1)
