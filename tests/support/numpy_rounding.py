"""`octavo.formats.rounding` a second time, in NumPy: see there what each rounding is."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from octavo.formats.groups import Floats, Groups
from octavo.formats.rounding import E4M3_MAX, GROUP, nearest_e4m3

_REACHES = (7.0, 7.5, 8.0, 8.4, 8.8, 9.4)
"""Codes that the largest value of a group is tried at: one beyond the range clips it and refines the rest.

Six leave an error within 0.4% of what llama.cpp's nineteen do, on SmolLM2's weights.
"""

_SHRINKS = (1.0, 0.95, 0.9, 0.85, 0.8)
"""Parts of the span between least and largest that 16 codes with a zero point are tried over."""

_FLOAT8_SHIFTS = (0.0, 0.25, 0.5, 0.75)
"""Powers of two that the largest value of a group is tried below E4M3's largest."""


def round_int8(values: Floats, size: int = GROUP) -> Groups:
    """Codes -127 to 127, a scale for each `size` neighbours: value = scale * code."""
    groups = _grouped(values, size)
    scales = _float16(_over_groups(np.maximum, np.abs(groups)) / np.float32(127))
    return Groups(_codes(groups, scales, -127, 127), scales)


def round_int4(values: Floats, size: int = GROUP, importance: Floats | None = None) -> Groups:
    """Codes -8 to 7, and for each `size` neighbours the scale with the least squared error.

    `importance`, `[cols]`, weighs the errors of a row's columns: the mean square of the inputs they meet.
    A scale is negative where the value that is furthest from zero is positive, so that it may have code -8.
    Candidates are the scales that put that value at one of a few codes, each corrected to the best for the
    codes that it gives, as in llama.cpp's `make_qx_quants`.
    """
    groups = _grouped(values, size)
    weights = _weights(groups, importance)
    furthest = np.take_along_axis(groups, np.abs(groups).argmax(axis=2)[..., None], axis=2)
    best = np.zeros(groups.shape[:2], np.float32)
    most = np.full(groups.shape[:2], -1, np.float32)
    with np.errstate(divide="ignore", invalid="ignore"):
        for reach in _REACHES:
            inverse = np.where(furthest == 0, 0, -np.float32(reach) / furthest)
            codes = np.clip(np.rint(groups * inverse), -8, 7)
            weighted = codes * weights
            along = (weighted * groups).sum(axis=2)
            square = (weighted * codes).sum(axis=2)
            # The best scale for these codes is along / square, and leaves the error of zeros less this.
            gain = np.where(square > 0, along * along / square, 0)
            better = gain > most
            most = np.where(better, gain, most)
            best = np.where(better, np.where(square > 0, along / square, 0), best)
    scales = _float16(best)
    return Groups(_codes(groups, scales, -8, 7), scales)


def round_int4_zero_points(values: Floats, size: int = GROUP, importance: Floats | None = None) -> Groups:
    """Codes 0 to 15, and for each `size` neighbours a scale and a zero point: value = scale * (code - zero).

    Zero is a code, as AWQ has it. Candidates span a part of the range between least and largest value.
    """
    groups = _grouped(values, size)
    weights = _weights(groups, importance)
    least, largest = np.minimum(groups.min(axis=2), 0), np.maximum(groups.max(axis=2), 0)
    best_scales = best_zeros = np.zeros(groups.shape[:2], np.float32)
    error = np.full(groups.shape[:2], np.inf, np.float32)
    for shrink in _SHRINKS:
        scales = _float16((largest - least) * np.float32(shrink / 15))
        inverse = _inverse(scales)
        zeros = np.clip(np.rint(-least * np.float32(shrink) * inverse), 0, 15)
        codes = np.clip(np.rint(groups * inverse[..., None]) + zeros[..., None], 0, 15)
        missed = (codes - zeros[..., None]) * scales[..., None] - groups
        own = (missed * missed * weights).sum(axis=2)
        better = own < error
        error = np.where(better, own, error)
        best_scales, best_zeros = np.where(better, scales, best_scales), np.where(better, zeros, best_zeros)
    codes = np.rint(groups * _inverse(best_scales)[..., None]) + best_zeros[..., None]
    return Groups(np.clip(codes, 0, 15).astype(np.uint8), best_scales, zeros=best_zeros.astype(np.uint8))


def round_int4_minimums(values: Floats, size: int = GROUP, importance: Floats | None = None) -> Groups:
    """Codes 0 to 15, and for each `size` neighbours a scale and a minimum: value = scale * code + minimum.

    Candidates span a part of the range between least and largest value, shrunk from both ends.
    """
    groups = _grouped(values, size)
    weights = _weights(groups, importance)
    least, largest = groups.min(axis=2), groups.max(axis=2)
    best_scales = best_minimums = np.zeros(groups.shape[:2], np.float32)
    error = np.full(groups.shape[:2], np.inf, np.float32)
    for shrink in _SHRINKS:
        cut = (largest - least) * np.float32((1 - shrink) / 2)
        minimums = _float16(least + cut)
        scales = _float16((largest - least - 2 * cut) / np.float32(15))
        codes = np.clip(np.rint((groups - minimums[..., None]) * _inverse(scales)[..., None]), 0, 15)
        missed = codes * scales[..., None] + minimums[..., None] - groups
        own = (missed * missed * weights).sum(axis=2)
        better = own < error
        error = np.where(better, own, error)
        best_scales = np.where(better, scales, best_scales)
        best_minimums = np.where(better, minimums, best_minimums)
    codes = np.rint((groups - best_minimums[..., None]) * _inverse(best_scales)[..., None])
    return Groups(np.clip(codes, 0, 15).astype(np.uint8), best_scales, minimums=best_minimums)


def float8_groups(values: Floats, size: int = GROUP) -> Groups:
    """Numbers of E4M3, and for each `size` neighbours the float32 scale with the least squared error.

    A number's error depends on where it lies between two powers of two, so candidates put the largest of a
    group at a few places below 448: half the squared error of a scale a row, on SmolLM2's weights.
    """
    groups = _grouped(values, size)
    most = _over_groups(np.maximum, np.abs(groups)) / np.float32(E4M3_MAX)
    best: Floats = most
    least = np.full(most.shape, np.inf, np.float32)
    for shift in _FLOAT8_SHIFTS:
        scales = most * np.float32(2**shift)
        missed = nearest_e4m3(groups * _inverse(scales)[..., None]) * scales[..., None] - groups
        error = _over_groups(np.add, missed * missed)
        best = np.where(error < least, scales, best)
        least = np.minimum(error, least)
    return Groups(nearest_e4m3(groups * _inverse(best)[..., None]), best)


def _grouped(values: Floats, size: int) -> Floats:
    _check_finite(values)
    return np.ascontiguousarray(values).reshape(len(values), -1, size)


def _over_groups(operation: np.ufunc, groups: Floats) -> Floats:
    """Each group reduced: halves with each other, where NumPy would take short runs one by one."""
    while groups.shape[2] > 1 and groups.shape[2] % 2 == 0:
        half = groups.shape[2] // 2
        groups = operation(groups[..., :half], groups[..., half:])
    reduced: Floats = operation.reduce(groups, axis=2)
    return reduced


def _check_finite(values: Floats) -> None:
    if not np.isfinite(np.dot(values.reshape(-1), values.reshape(-1))) and not np.isfinite(values).all():
        raise ValueError("has values that are not finite")


def _weights(groups: Floats, importance: Floats | None) -> Floats:
    if importance is None:
        return np.ones((1, 1, 1), np.float32)
    return importance.astype(np.float32).reshape(1, groups.shape[1], groups.shape[2])


def _codes(groups: Floats, scales: Floats, low: int, high: int) -> NDArray[np.int8]:
    codes: NDArray[np.int8] = np.clip(np.rint(groups * _inverse(scales)[..., None]), low, high).astype(
        np.int8
    )
    return codes


def _inverse(scales: Floats) -> Floats:
    """1 / scale, and 0 for a group of zeros."""
    with np.errstate(divide="ignore", over="ignore"):
        inverse: Floats = np.where(scales == 0, np.float32(0), np.float32(1) / scales)
    return np.where(np.isfinite(inverse), inverse, np.float32(0))


def _float16(scales: Floats) -> Floats:
    with np.errstate(over="ignore"):
        rounded = scales.astype(np.float16).astype(np.float32)
    if not np.isfinite(rounded).all():
        raise ValueError("has values that are too large for a float16 scale")
    return rounded
