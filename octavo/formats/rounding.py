"""From floats to codes and scales: int8, int4 and FP8, each group of values by itself.

The functions take float32 rows `[rows, cols]` and give `Groups`. Scales are numbers of float16, so that what
is stored with float16 scales is exactly what was rounded to; those of FP8 are float32. Raises ValueError for
values that are not finite or whose scale float16 cannot hold. The work is done by `csrc/kernels/rounding.h`,
without Python's lock: several threads round at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from octavo.formats.groups import Floats, Groups
from octavo.formats.raw_array import E4M3

GROUP = 32
"""Values that share a scale, unless another size is asked for: the group of the integer kernels."""

E4M3_MAX = 448.0

_NO_FLOATS = np.empty(0, np.float32)
_NO_ORDER = np.empty(0, np.int32)


def round_int8(values: Floats, size: int = GROUP) -> Groups:
    """Codes -127 to 127, a scale for each `size` neighbours: value = scale * code."""
    return round_rows("int8", FloatRows.of(values), size)


def round_int4(values: Floats, size: int = GROUP, importance: Floats | None = None) -> Groups:
    """Codes -8 to 7, and for each `size` neighbours the scale with the least squared error.

    `importance`, `[cols]`, weighs the errors of a row's columns: the mean square of the inputs they meet. A
    scale is negative where the value that is furthest from zero is positive, so that it may have code -8. The
    scales that are tried put that value at 7, 7.5, 8, 8.4, 8.8 or 9.4. Each is then corrected to the best one
    for the codes that it gives, as in llama.cpp's `make_qx_quants`. A scale that puts the value beyond the
    range clips it, and is finer for the other values. Six leave an error within 0.4% of what llama.cpp's
    nineteen do, on SmolLM2's weights.
    """
    return round_rows("int4", FloatRows.of(values), size, importance)


def round_int4_zero_points(values: Floats, size: int = GROUP, importance: Floats | None = None) -> Groups:
    """Codes 0 to 15, and for each `size` neighbours a scale and a zero point: value = scale * (code - zero).

    Zero is a code, as AWQ has it. Candidates span 1, 0.95, 0.9, 0.85 and 0.8 of the range between least and
    largest value.
    """
    return round_rows("int4-zero-points", FloatRows.of(values), size, importance)


def round_int4_minimums(values: Floats, size: int = GROUP, importance: Floats | None = None) -> Groups:
    """Codes 0 to 15, and for each `size` neighbours a scale and a minimum: value = scale * code + minimum.

    Candidates span the same parts of the range between least and largest value, shrunk from both ends.
    """
    return round_rows("int4-minimums", FloatRows.of(values), size, importance)


def float8_groups(values: Floats) -> Groups:
    """Numbers of E4M3, and for each 32 neighbours the float32 scale with the least squared error.

    The error of a number depends on where it lies between two powers of two. So four scales are tried, which
    put the largest value of a group at 448, and a quarter, a half and three quarters of a power of two below.
    On SmolLM2's weights this leaves half the squared error of one scale a row. A zero has no sign.
    """
    return round_rows("fp8", FloatRows.of(values), GROUP)


@dataclass(frozen=True, slots=True)
class FloatRows:
    """Rows of `cols` floats as a checkpoint stores them: `data` in F32, F16 or BF16, perhaps to be scaled.

    `column_factors`, `[cols]`, and `row_factors`, `[rows]`, float32, are what they are multiplied with first.
    """

    encoding: str
    data: NDArray[np.uint8]
    cols: int
    column_factors: Floats | None = None
    row_factors: Floats | None = None

    @classmethod
    def of(cls, values: Floats) -> FloatRows:
        """The rows of a float32 `[rows, cols]`."""
        return cls(
            "F32", np.ascontiguousarray(values, np.float32).reshape(-1).view(np.uint8), values.shape[1]
        )


def round_rows(rounding: str, rows: FloatRows, size: int, importance: Floats | None = None) -> Groups:
    """`rows` rounded to "int8", "int4", "int4-zero-points", "int4-minimums" or "fp8": see above."""
    native, isa = _native()
    offsets_type = {"int4-zero-points": np.uint8, "int4-minimums": np.float32}.get(rounding)
    values = len(rows.data) // {"F32": 4, "F16": 2, "BF16": 2}[rows.encoding]
    shape = (values // rows.cols, rows.cols // size)
    codes = np.empty(values, np.uint8)
    scales = np.empty(values // size, np.float32)
    offsets = np.empty(values // size if offsets_type else 0, np.float32)
    native.round_to_groups(
        isa,
        rounding,
        rows.encoding,
        rows.data,
        rows.cols,
        size,
        _floats(rows.column_factors),
        _floats(rows.row_factors),
        _floats(importance),
        codes,
        scales,
        offsets,
    )
    in_groups, scales = codes.reshape(*shape, size), scales.reshape(shape)
    match rounding:
        case "int4-zero-points":
            return Groups(in_groups, scales, zeros=offsets.reshape(shape).astype(np.uint8))
        case "int4-minimums":
            return Groups(in_groups, scales, minimums=offsets.reshape(shape))
        case "fp8":
            return Groups(E4M3.take(in_groups), scales)
    return Groups(in_groups.view(np.int8), scales)


def round_to_panels(
    rounding: str,
    rows: FloatRows,
    out: NDArray[np.uint8],
    importance: Floats | None = None,
    order: NDArray[np.int32] = _NO_ORDER,
) -> None:
    """Fill `out` with the kernels' panels of `rows`, in groups of 32; row i of them is row `order[i]`.

    "int8" gives those of Q8_0, "int4" of Q4_0, "int4-minimums" of Q4_1, "fp8" of F8_E4M3.
    """
    native, isa = _native()
    native.round_to_panels(
        isa,
        rounding,
        rows.encoding,
        rows.data,
        rows.cols,
        _floats(rows.column_factors),
        _floats(rows.row_factors),
        _floats(importance),
        order,
        out,
    )


def round_float8(values: Floats) -> tuple[NDArray[np.uint8], Floats]:
    """E4M3 bytes `[rows, cols]` and a float32 scale for each row, `[rows, 1]`: the largest value is 448."""
    _check_finite(values)
    scales = np.abs(values).max(axis=1, keepdims=True) / np.float32(E4M3_MAX)
    return encode_e4m3(values * _inverse(scales)), scales


def float8_rows(values: Floats) -> Groups:
    """`round_float8` as one group a row."""
    codes, scales = round_float8(values)
    return Groups(E4M3[codes][:, None], scales)


def nearest_e4m3(values: Floats) -> Floats:
    """The nearest number of E4M3 to each value, as `encode_e4m3`.

    Take a number 2^20 times as large as a value's power of two. Adding 1.5 times that number leaves the bits
    that E4M3 has. Below 2^-6 the numbers of E4M3 keep the distance that they have there.
    """
    values = np.clip(values, -np.float32(E4M3_MAX), np.float32(E4M3_MAX))
    powers = np.maximum(values.view(np.uint32) & np.uint32(0xFF << 23), np.uint32(121 << 23))
    large = (powers + np.uint32(20 << 23)).view(np.float32) * np.float32(1.5)
    nearest: Floats = (values + large) - large
    return nearest


def encode_e4m3(values: Floats) -> NDArray[np.uint8]:
    """The nearest E4M3 byte of each value, ties to even; what is beyond 448 becomes 448."""
    magnitudes = np.minimum(np.abs(values), np.float32(E4M3_MAX))
    bits = magnitudes.view(np.uint32)
    # A float32 has 20 bits of fraction below E4M3's three; its exponent is 120 larger.
    rounded = bits + np.uint32(0x7FFFF) + (bits >> np.uint32(20) & np.uint32(1))
    normal = (rounded >> np.uint32(20)) - np.uint32(120 << 3)
    subnormal = np.rint(magnitudes * np.float32(512)).astype(np.uint32)
    codes = np.where(magnitudes < np.float32(2**-6), subnormal, normal).astype(np.uint8)
    return codes | np.where(np.signbit(values), np.uint8(128), np.uint8(0))


def _check_finite(values: Floats) -> None:
    if not np.isfinite(np.dot(values.reshape(-1), values.reshape(-1))) and not np.isfinite(values).all():
        raise ValueError("has values that are not finite")


def _inverse(scales: Floats) -> Floats:
    """1 / scale, and 0 for a group of zeros."""
    with np.errstate(divide="ignore", over="ignore"):
        inverse: Floats = np.where(scales == 0, np.float32(0), np.float32(1) / scales)
    return np.where(np.isfinite(inverse), inverse, np.float32(0))


def _floats(values: Floats | None) -> Floats:
    return _NO_FLOATS if values is None else np.ascontiguousarray(values, np.float32)


@cache
def _native() -> tuple[Any, str]:
    """The C++ module, which reading a checkpoint does not need, and the tier to run on."""
    from octavo import _native as native
    from octavo.machine.isa import choose_isa

    return native, choose_isa()
