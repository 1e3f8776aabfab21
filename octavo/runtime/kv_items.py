"""The types that keys and values are cached in: what a head's vector becomes, and what is read back.

float16, bfloat16 and fp8 (e4m3 of the OCP 8-bit floating point specification) round to the nearest, ties to
even, and saturate. The integers keep multiples of a float32 scale of the vector. In int8 the largest becomes
127; in int16 it becomes 16383 in values, and in keys at most 32767, and their norm at most 46300: the integer
product with a query of such a norm fits 32 bits (Cauchy and Schwarz).
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from octavo.runtime import fixed_order

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]

KV_CACHE_DTYPES = ("int16", "float16", "bfloat16", "float32", "int8", "fp8")

LARGEST = {"float16": 65504.0, "bfloat16": float.fromhex("0x1.fep127"), "fp8": 448.0}


def vector_bytes(dtype: str, head_dim: int) -> int:
    """Bytes of one token's keys, or values, of one KV head."""
    item = {"int16": 2, "float16": 2, "bfloat16": 2, "float32": 4, "int8": 1, "fp8": 1}[dtype]
    return item * head_dim + (4 if dtype.startswith("int") else 0)


def encode(vectors: Floats, dtype: str, part: Literal["keys", "values"] = "values") -> Bytes:
    """`[..., head dim]` as `[..., vector bytes]`."""
    vectors = np.ascontiguousarray(vectors, np.float32)
    if dtype in LARGEST:
        vectors = np.clip(vectors, -LARGEST[dtype], LARGEST[dtype])
    if dtype == "int8":
        return _encode_int8(vectors)
    if dtype == "int16":
        return _encode_int16(vectors, part)
    if dtype == "bfloat16":
        return (_round_bits(vectors.view(np.uint32), 16) >> 16).astype(np.uint16).view(np.uint8)
    if dtype == "fp8":
        return _encode_e4m3(vectors)
    return vectors.astype(dtype).view(np.uint8)


def decode(data: Bytes, dtype: str) -> Floats:
    """What `encode` gave, as float32 `[..., head dim]`."""
    data = np.ascontiguousarray(data)
    if dtype.startswith("int"):
        scales = np.ascontiguousarray(data[..., -4:]).view(np.float32)
        return np.ascontiguousarray(data[..., :-4]).view(dtype).astype(np.float32) * scales
    if dtype == "bfloat16":
        return (data.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    if dtype == "fp8":
        # As float16 its exponent would be 8 too small.
        bits = (data & 0x80).astype(np.uint16) << 8 | (data & 0x7F).astype(np.uint16) << 7
        return bits.view(np.float16).astype(np.float32) * np.float32(256)
    return data.view(dtype).astype(np.float32)


def _encode_int8(vectors: Floats) -> Bytes:
    # 127 times the scale has to be finite.
    largest = np.minimum(np.abs(vectors).max(axis=-1, keepdims=True), np.float32(2.0**127))
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        inverse = np.where(largest > 0, np.float32(127) / largest, np.float32(0))
    items = np.clip(np.rint(vectors * inverse), -127, 127).astype(np.int8)
    scales = np.ascontiguousarray(largest / np.float32(127))
    return np.concatenate([items.view(np.uint8), scales.view(np.uint8)], axis=-1)


def _encode_int16(vectors: Floats, part: str) -> Bytes:
    vectors = np.clip(vectors, -(2.0**100), 2.0**100)
    largest = np.abs(vectors).max(axis=-1, keepdims=True)
    whole = np.where(largest > 2.0**-100, largest, np.float32(np.inf))  # else every item is 0
    norm = np.sqrt(fixed_order.total(np.square(vectors / whole)))[..., None]
    steps = np.full_like(norm, 16383)
    if part == "keys":
        with np.errstate(divide="ignore"):
            steps = np.minimum(np.float32(46300) / norm, np.float32(32767))
    factor = (steps / whole).astype(np.float32)
    items = np.rint(vectors * factor).astype(np.int16)
    scales = np.divide(1, factor, out=np.ones_like(factor), where=factor > 0)
    return np.concatenate([items.view(np.uint8), scales.view(np.uint8)], axis=-1)


def _encode_e4m3(vectors: Floats) -> Bytes:
    bits = vectors.view(np.uint32)
    sign, magnitude = (bits >> 24) & np.uint32(0x80), bits & np.uint32(0x7FFFFFFF)
    normal = (_round_bits(magnitude, 20) - 0x3C000000) >> 20
    # Below 2^-6 the fraction counts 2^-9.
    subnormal = np.rint(magnitude.view(np.float32) * np.float32(512)).astype(np.uint32)
    return (sign | np.where(magnitude < 0x3C800000, subnormal, normal)).astype(np.uint8)


def _round_bits(bits: NDArray[np.uint32], dropped: int) -> NDArray[np.uint32]:
    half = (1 << (dropped - 1)) - 1
    return bits + np.uint32(half) + ((bits >> np.uint32(dropped)) & np.uint32(1))
