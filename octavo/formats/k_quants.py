"""llama.cpp's K-quants: super-blocks of 256 values whose groups of 16 or 32 have small integer scales.

Each function takes blocks `[N, bytes]` apart; d and dmin are float16 a super-block. Within one, quants lie in
planes of bits: shift k of a run of 32 bytes gives 32 neighbouring values.
Source: ggml-common.h and ggml-quants.c of https://github.com/ggml-org/ggml.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from octavo.formats.groups import Floats, Groups, float16

Blocks = NDArray[np.uint8]


def q2_k(blocks: Blocks) -> Groups:
    """16 x (4-bit scale, 4-bit minimum), 64 bytes of 2-bit q, d, dmin: d scale q - dmin minimum."""
    codes = _planes(blocks[:, 16:80], 32, 2).reshape(-1, 16, 16)
    scales, minimums = q2_k_scales_and_minimums(blocks)
    return Groups(codes, scales, minimums=minimums)


def q2_k_scales_and_minimums(blocks: Blocks) -> tuple[Floats, Floats]:
    """Those of `q2_k`'s groups, `[N, 16]` each."""
    both, d, dmin = blocks[:, :16], float16(blocks[:, 80:82]), float16(blocks[:, 82:84])
    return d * (both & 15), -(dmin * (both >> 4))


def q3_k(blocks: Blocks) -> Groups:
    """32 bytes of third bits, 64 of 2-bit q, 16 x 6-bit scale, d: d (scale - 32) (q - 4)."""
    codes, scales, d = _q3_k(blocks)
    return Groups(codes, d * scales)


def q3_k_folded(blocks: Blocks) -> Groups:
    """The same values with one scale a super-block: -d times the int8 -(scale - 32) (q - 4).

    The product goes from -124 to 128; negated it fits int8.
    """
    codes, scales, d = _q3_k(blocks)
    products = (codes * -scales[:, :, None].astype(np.int16)).astype(np.int8)
    return Groups(products.reshape(-1, 8, 32), np.repeat(-d, 8, axis=1))


def q4_k(blocks: Blocks) -> Groups:
    """d, dmin, 8 x (6-bit scale, 6-bit minimum), 128 bytes of q: d scale q - dmin minimum."""
    scales, minimums = scales_and_minimums(blocks)
    return Groups(_planes(blocks[:, 16:], 32, 4), scales, minimums=minimums)


def q5_k(blocks: Blocks) -> Groups:
    """Q4_K with 32 bytes of fifth bits before its q."""
    codes = _planes(blocks[:, 48:], 32, 4) | _planes(blocks[:, 16:48], 32, 1) << 4
    scales, minimums = scales_and_minimums(blocks)
    return Groups(codes, scales, minimums=minimums)


def q6_k(blocks: Blocks) -> Groups:
    """128 bytes of low nibbles, 64 of upper 2 bits, 16 x int8 scale, d: d scale (q - 32)."""
    low = _planes(blocks[:, :128], 64, 4).reshape(-1, 8, 32)
    codes = (low | _planes(blocks[:, 128:192], 32, 2) << 4).view(np.int8) - np.int8(32)
    return Groups(codes.reshape(-1, 16, 16), q6_k_scales(blocks))


def q6_k_scales(blocks: Blocks) -> Floats:
    """The scales of `q6_k`'s groups, `[N, 16]`."""
    return float16(blocks[:, 208:]) * blocks[:, 192:208].view(np.int8)


def q8_k(blocks: Blocks) -> Groups:
    """float32 d, 256 x int8 q, 16 sums of them that say nothing new: d q."""
    scales = np.ascontiguousarray(blocks[:, :4]).view(np.float32)
    return Groups(blocks[:, 4:260].view(np.int8)[:, None], scales)


def _q3_k(blocks: Blocks) -> tuple[NDArray[np.int8], NDArray[np.int8], Floats]:
    """Codes -4 to 3 `[N, 16, 16]`, scales -32 to 31 `[N, 16]`, d `[N, 1]`."""
    third = _planes(blocks[:, :32], 32, 1) << 2
    codes = (_planes(blocks[:, 32:96], 32, 2) | third).view(np.int8) - np.int8(4)
    low, high = _planes(blocks[:, 96:104], 8, 4), _planes(blocks[:, 104:108], 4, 2)
    scales = (low.reshape(-1, 16) | high.reshape(-1, 16) << 4).view(np.int8) - np.int8(32)
    return codes.reshape(-1, 16, 16), scales, float16(blocks[:, 108:])


def scales_and_minimums(blocks: Blocks) -> tuple[Floats, Floats]:
    """d scale and -(dmin minimum) of Q4_K and Q5_K, `[N, 8]` each.

    Twelve bytes: the first four groups' scales and minimums in the low six bits of eight bytes; the others'
    low nibbles in the last four, their upper two bits atop the first eight.
    """
    first, second, third = blocks[:, 4:8], blocks[:, 8:12], blocks[:, 12:16]
    scales = np.concatenate([first & 63, third & 15 | first >> 2 & 48], axis=1)
    minimums = np.concatenate([second & 63, third >> 4 | second >> 2 & 48], axis=1)
    return float16(blocks[:, :2]) * scales, -(float16(blocks[:, 2:4]) * minimums)


def _planes(packed: Blocks, run: int, bits: int) -> Blocks:
    """Codes of `bits` bits: each run of bytes gives one run of codes a shift, `[N, runs * shifts, run]`."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)[:, None]
    codes = packed.reshape(len(packed), -1, 1, run) >> shifts & np.uint8((1 << bits) - 1)
    return codes.reshape(len(packed), -1, run)
