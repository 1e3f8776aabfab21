"""Quantises to the llama.cpp types that gguf-py only reads: plain rounding, without llama.cpp's search."""

from __future__ import annotations

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, quants

IQ4_VALUES = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113])


def quantise(array: np.ndarray, kind: GGMLQuantizationType) -> np.ndarray:
    """`array` as uint8 rows of `kind`'s blocks: by gguf-py where it can, else by this module."""
    writer = globals().get(f"_{kind.name.lower()}")
    if writer is None:
        return quants.quantize(np.ascontiguousarray(array, dtype=np.float32), kind)
    group_size, group_bytes = GGML_QUANT_SIZES[kind]
    blocks = np.concatenate(writer(array.reshape(-1, group_size).astype(np.float64)), axis=1)
    assert blocks.dtype == np.uint8
    assert blocks.shape[1] == group_bytes
    return blocks.reshape(*array.shape[:-1], -1)


def _q2_k(x):
    codes, scales, minimums, d, dmin = _affine(x, 16, 3, 15)
    return [scales | minimums << 4, _planes(codes, 32, 2), d, dmin]


def _q3_k(x):
    groups = x.reshape(-1, 16, 16)
    scale = _extreme(groups)[..., 0] / -4
    d, super_scale = _half(_extreme(scale) / -32)
    factors = np.clip(np.rint(_over(scale, super_scale)), -32, 31)
    codes = np.clip(np.rint(_over(groups, (super_scale * factors)[..., None])), -4, 3).astype(int) + 4
    stored = (factors + 32).astype(np.uint8)
    low = stored[:, :8] & 15 | (stored[:, 8:] & 15) << 4
    high = np.bitwise_or.reduce([(stored[:, 4 * i : 4 * i + 4] >> 4) << 2 * i for i in range(4)])
    return [_planes(codes >> 2, 32, 1), _planes(codes & 3, 32, 2), low, high, d]


def _q4_k(x):
    codes, scales, minimums, d, dmin = _affine(x, 32, 15, 63)
    return [d, dmin, _six_bits(scales, minimums), _planes(codes, 32, 4)]


def _q5_k(x):
    codes, scales, minimums, d, dmin = _affine(x, 32, 31, 63)
    return [d, dmin, _six_bits(scales, minimums), _planes(codes >> 4, 32, 1), _planes(codes & 15, 32, 4)]


def _q6_k(x):
    groups = x.reshape(-1, 16, 16)
    scale = _extreme(groups)[..., 0] / -32
    d, super_scale = _half(_extreme(scale) / -128)
    factors = np.clip(np.rint(_over(scale, super_scale)), -128, 127)
    codes = np.clip(np.rint(_over(groups, (super_scale * factors)[..., None])), -32, 31).astype(int) + 32
    return [
        _planes(codes & 15, 64, 4),
        _planes(codes >> 4, 32, 2),
        factors.astype(np.int8).view(np.uint8),
        d,
    ]


def _iq4_nl(x):
    d, scale = _half(_extreme(x) / -127)
    return [d, _table_nibbles(_over(x, scale)[:, None])]


def _iq4_xs(x):
    groups = x.reshape(-1, 8, 32)
    scale = _extreme(groups)[..., 0] / -127
    d, super_scale = _half(_extreme(scale) / -32)
    factors = np.clip(np.rint(_over(scale, super_scale)), -32, 31)
    stored = (factors + 32).astype(np.uint16)
    high = np.bitwise_or.reduce([(stored[:, i : i + 1] >> 4) << 2 * i for i in range(8)])
    low = (stored[:, ::2] & 15 | (stored[:, 1::2] & 15) << 4).astype(np.uint8)
    codes = _table_nibbles(_over(groups, (super_scale * factors)[..., None]))
    return [d, high.astype("<u2").view(np.uint8), low, codes]


def _affine(x, size, most_code, most_factor):
    """Codes and small integer scales and minimums for x = d scale code - dmin minimum."""
    groups = x.reshape(len(x), -1, size)
    low = np.minimum(groups.min(axis=-1), 0)
    scale = (groups.max(axis=-1) - low) / most_code
    d, super_scale = _half(scale.max(axis=-1, keepdims=True) / most_factor)
    dmin, super_minimum = _half(-low.min(axis=-1, keepdims=True) / most_factor)
    scales = np.clip(np.rint(_over(scale, super_scale)), 0, most_factor)
    minimums = np.clip(np.rint(_over(-low, super_minimum)), 0, most_factor)
    above = groups + (super_minimum * minimums)[..., None]
    codes = np.clip(np.rint(_over(above, (super_scale * scales)[..., None])), 0, most_code)
    return codes.astype(int), scales.astype(np.uint8), minimums.astype(np.uint8), d, dmin


def _six_bits(scales, minimums):
    """Twelve bytes of eight 6-bit scales and eight 6-bit minimums."""
    first = scales[:, :4] | (scales[:, 4:] >> 4) << 6
    second = minimums[:, :4] | (minimums[:, 4:] >> 4) << 6
    return np.concatenate([first, second, scales[:, 4:] & 15 | (minimums[:, 4:] & 15) << 4], axis=1)


def _planes(codes, run, bits):
    """`[N, ...]` codes in bytes, `8 / bits` runs of `run` codes above each other in one run of bytes."""
    parts = codes.reshape(len(codes), -1, 8 // bits, run).astype(np.uint8)
    return np.bitwise_or.reduce(
        [parts[:, :, i] << np.uint8(bits * i) for i in range(8 // bits)]
    ).reshape(len(codes), -1)  # fmt: skip


def _table_nibbles(x):
    """`[N, groups, 32]` numbers as the nibbles of the nearest table values, 16 bytes a group."""
    nearest = np.abs(x[..., None] - IQ4_VALUES).argmin(axis=-1).astype(np.uint8)
    return (nearest[..., :16] | nearest[..., 16:] << 4).reshape(len(x), -1)


def _extreme(x):
    """The value of the last axis that is furthest from 0, with its sign; the axis stays, of length 1."""
    return np.take_along_axis(x, np.abs(x).argmax(axis=-1, keepdims=True), axis=-1)


def _half(x):
    """`[N, 1]` as float16 bytes, and what those stand for."""
    halves = x.astype(np.float16)
    return halves.view(np.uint8), halves.astype(np.float64)


def _over(x, y):
    return np.divide(x, y, out=np.zeros(np.broadcast_shapes(x.shape, np.shape(y))), where=y != 0)
