"""4-bit forms whose nibbles pick from a table of 16: llama.cpp's, and bitsandbytes' as octavo packs them.

Each function takes blocks `[N, bytes]` apart. Sources: ggml-common.h and ggml-quants.c of
https://github.com/ggml-org/ggml; OCP Microscaling Formats (MX) Specification 1.0; functional.py of
https://github.com/bitsandbytes-foundation/bitsandbytes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from octavo.formats.groups import Floats, Groups, float16, nibbles

Blocks = NDArray[np.uint8]

IQ4_TABLE = np.array(
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], dtype=np.int8
)
"""What a nibble of IQ4_NL and IQ4_XS stands for."""

MXFP4_TABLE = np.array([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12], dtype=np.int8)
"""Twice what a nibble of MXFP4 stands for (E2M1: a sign, two bits of exponent, one of fraction)."""

NF4_FLOATS = np.array([
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453,
    -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
    0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
], dtype=np.float32)  # fmt: skip
"""What a code of NF4 stands for: quantiles of the normal distribution."""

NF4_STEPS = 112
NF4_TABLE = np.rint(NF4_FLOATS * NF4_STEPS).astype(np.int8)
"""NF4 for the integer kernels, in the steps whose integers are nearest to it.

They are off by at most 1/260 of a block's largest value, and by 1/580 in the mean square. NF4 itself is off
by 1/28 where values are normally distributed.
"""

FP4_FLOATS = np.array([0, 0.005208333333, 2 / 3, 1, 1 / 3, 1 / 2, 1 / 6, 1 / 4], dtype=np.float32)
FP4_FLOATS = np.concatenate([FP4_FLOATS, -FP4_FLOATS])
"""What a code of bitsandbytes' FP4 stands for: a sign, two bits of exponent, one of fraction."""

FP4_STEPS = 120
FP4_TABLE = np.rint(FP4_FLOATS * FP4_STEPS).astype(np.int8)
"""FP4 for the integer kernels: exact but for the smallest value, which becomes 1 / 120."""


def iq4_nl(blocks: Blocks) -> Groups:
    """float16 d, 16 bytes: d table[nibble], nibbles as in Q4_0."""
    return Groups(IQ4_TABLE[nibbles(blocks[:, 2:])][:, None], float16(blocks[:, :2]))


def iq4_xs(blocks: Blocks) -> Groups:
    """float16 d, 8 x 6-bit scale, 8 x 16 bytes: d (scale - 32) table[nibble]."""
    return Groups(IQ4_TABLE[nibbles(blocks[:, 8:].reshape(-1, 8, 16))], iq4_xs_scales(blocks))


def iq4_xs_scales(blocks: Blocks) -> Floats:
    """d (scale - 32) of `iq4_xs`, `[N, 8]`: low nibbles in the last four of six bytes, then upper bits."""
    high = np.ascontiguousarray(blocks[:, 2:4]).view(np.uint16) >> np.arange(0, 16, 2, dtype=np.uint16)
    low = blocks[:, 4:8, None] >> np.array([0, 4], np.uint8)
    scales = (low.reshape(-1, 8) & 15 | (high.astype(np.uint8) & 3) << 4).view(np.int8) - np.int8(32)
    return float16(blocks[:, :2]) * scales


def mxfp4(blocks: Blocks) -> Groups:
    """An E8M0 exponent, 16 bytes: 2^(exponent - 127) E2M1(nibble), nibbles as in Q4_0."""
    return Groups(MXFP4_TABLE[nibbles(blocks[:, 1:])][:, None], half_power_of_two(blocks[:, :1]))


def nf4(blocks: Blocks) -> Groups:
    """float16 d, 16 bytes: d NF4_TABLE[nibble], nibbles as in Q4_0."""
    return Groups(NF4_TABLE[nibbles(blocks[:, 2:])][:, None], float16(blocks[:, :2]))


def fp4(blocks: Blocks) -> Groups:
    """float16 d, 16 bytes: d FP4_TABLE[nibble], nibbles as in Q4_0."""
    return Groups(FP4_TABLE[nibbles(blocks[:, 2:])][:, None], float16(blocks[:, :2]))


def half_power_of_two(exponents: Blocks) -> Floats:
    """2^(exponent - 128): half of an E8M0 scale, which goes with a doubled table. Exact, 255 included."""
    return np.ldexp(np.float32(1), exponents.astype(np.int32) - 128)
