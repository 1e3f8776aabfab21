"""llama.cpp's blocks of 32 values with a float16 scale d, and for the _1 ones a float16 minimum m.

Each function takes blocks `[N, bytes]` apart. Source: ggml-common.h and ggml-quants.c of
https://github.com/ggml-org/ggml.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from octavo.formats.groups import Groups, float16, nibbles
from octavo.formats.raw_array import E4M3

Blocks = NDArray[np.uint8]


def q4_0(blocks: Blocks) -> Groups:
    """d, 16 bytes: value i is d (low nibble of byte i - 8), value i + 16 its high nibble."""
    return Groups(_one_group(nibbles(blocks[:, 2:]).view(np.int8) - np.int8(8)), float16(blocks[:, :2]))


def q4_1(blocks: Blocks) -> Groups:
    """d, m, 16 bytes: d nibble + m, nibbles as in Q4_0."""
    codes = _one_group(nibbles(blocks[:, 4:]))
    return Groups(codes, float16(blocks[:, :2]), minimums=float16(blocks[:, 2:4]))


def q5_0(blocks: Blocks) -> Groups:
    """d, 32 fifth bits, 16 bytes: d (q - 16), where bit i of the four bytes is the top one of value i."""
    codes = _five_bits(blocks[:, 2:6], blocks[:, 6:]).view(np.int8) - np.int8(16)
    return Groups(_one_group(codes), float16(blocks[:, :2]))


def q5_1(blocks: Blocks) -> Groups:
    """d, m, 32 fifth bits, 16 bytes: d q + m."""
    codes = _one_group(_five_bits(blocks[:, 4:8], blocks[:, 8:]))
    return Groups(codes, float16(blocks[:, :2]), minimums=float16(blocks[:, 2:4]))


def q8_0(blocks: Blocks) -> Groups:
    """d, 32 x int8 q: d q."""
    return Groups(_one_group(blocks[:, 2:].view(np.int8)), float16(blocks[:, :2]))


def u8_1(blocks: Blocks) -> Groups:
    """d, m, 32 x uint8 q: d q + m."""
    return Groups(_one_group(blocks[:, 4:]), float16(blocks[:, :2]), minimums=float16(blocks[:, 2:4]))


def f8_e4m3(blocks: Blocks) -> Groups:
    """float32 d, 32 x E4M3 q: d q."""
    scales = np.ascontiguousarray(blocks[:, :4]).view(np.float32)
    return Groups(_one_group(E4M3[blocks[:, 4:]]), scales)


def _five_bits(high: Blocks, low: Blocks) -> Blocks:
    return nibbles(low) | np.unpackbits(high, axis=1, bitorder="little") << np.uint8(4)


def _one_group(codes: NDArray[np.generic]) -> NDArray[np.generic]:
    """`[N, 32]` codes as `[N, 1, 32]`."""
    return codes[:, None]
