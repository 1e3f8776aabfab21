"""llama.cpp's 4-bit forms whose nibbles pick from a table of 16 values: IQ4_NL, IQ4_XS, MXFP4.

Each function takes blocks `[N, bytes]` apart. Sources: ggml-common.h and ggml-quants.c of
https://github.com/ggml-org/ggml; OCP Microscaling Formats (MX) Specification 1.0.
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


def half_power_of_two(exponents: Blocks) -> Floats:
    """2^(exponent - 128): half of an E8M0 scale, which goes with a doubled table. Exact, 255 included."""
    return np.ldexp(np.float32(1), exponents.astype(np.int32) - 128)
