"""What every quantised form comes to: codes, and for each group of them a scale and perhaps an offset."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Groups:
    """Rows of a weight, taken apart: value = scale * (code - zero) + minimum.

    `codes` are `[rows, groups, size]`: int8, or uint8 where there are zeros or minimums, or float32 for a
    format that has a table of floats. `scales` and `minimums` are float32 `[rows, groups]`, `zeros` integers.
    A format has zeros or minimums or none, never both.
    """

    codes: NDArray[Any]
    scales: Floats
    zeros: NDArray[np.integer[Any]] | None = None
    minimums: Floats | None = None

    def values(self) -> Floats:
        """The values, `[rows, groups * size]`: one product, and one sum where there is a minimum."""
        values = self.codes.astype(np.float32)
        if self.zeros is not None:
            values -= self.zeros[:, :, None]
        values *= self.scales[:, :, None]
        if self.minimums is not None:
            values += self.minimums[:, :, None]
        return values.reshape(len(values), -1)

    def take(self, rows: NDArray[np.intp]) -> Groups:
        """Some of the rows, in that order."""
        return Groups(
            self.codes[rows],
            self.scales[rows],
            None if self.zeros is None else self.zeros[rows],
            None if self.minimums is None else self.minimums[rows],
        )

    def in_rows_of(self, blocks: int) -> Groups:
        """The same groups with every `blocks` rows joined to one."""

        def join(array: NDArray[Any]) -> NDArray[Any]:
            return array.reshape(len(array) // blocks, blocks * array.shape[1], *array.shape[2:])

        minimums = None if self.minimums is None else join(self.minimums)
        return Groups(join(self.codes), join(self.scales), minimums=minimums)


def float16(data: NDArray[np.uint8]) -> Floats:
    """Little-endian float16 `[..., 2 n]` bytes as float32 `[..., n]`."""
    return np.ascontiguousarray(data).view(np.float16).astype(np.float32)


def nibbles(packed: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """`[..., n]` bytes as `[..., 2 n]` codes: the low nibbles, then the high ones."""
    return np.concatenate([packed & 15, packed >> 4], axis=-1)
