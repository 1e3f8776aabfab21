"""Weights with integer codes, a scale a group and perhaps zero points: GPTQ, AWQ, compressed-tensors."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from octavo.formats.groups import Floats, Groups
from octavo.formats.quantised.method import Parts
from octavo.formats.tensor import Encoding
from octavo.formats.weight import QuantisedWeight

Codes = NDArray[np.uint8]


def unpack(words: NDArray[np.int32], bits: int) -> Codes:
    """Codes of 4 or 8 bits in the last dimension of 32-bit words, the first in the lowest bits."""
    packed = np.ascontiguousarray(words).view(np.uint8)
    if bits == 8:
        return packed
    return np.stack([packed & 15, packed >> 4], axis=-1).reshape(*packed.shape[:-1], -1)


def integer_weight(
    parts: Parts,
    method: str,
    bits: int,
    shape: tuple[int, int],
    codes: Callable[[slice], Codes],
    scales: Floats,
    zeros: NDArray[np.integer] | None,
    group_of: NDArray[np.int32] | None = None,
) -> QuantisedWeight:
    """A weight of `scale * (code - zero)`, where the codes are unsigned numbers of `bits` bits.

    `codes` gives those of a slice of rows, `[n, cols]`. `scales` and `zeros` are `[rows, groups]`; no zeros
    are zeros of half the codes' range. A group is `cols / groups` neighbours, or with `group_of` (GPTQ's
    g_idx, `[cols]`) any columns: as many for each group, or the weight runs as float16. Raises
    ValueError when the sizes do not fit together.
    """
    cols = shape[1]
    half = 1 << (bits - 1)
    if zeros is not None and (zeros == half).all():
        zeros = None
    groups = scales.shape[1]
    size = cols // groups
    if size * groups != cols:
        raise parts.error("", f"has {groups} groups in rows of {cols}, which do not divide into them")
    if group_of is not None and np.array_equal(group_of, np.arange(cols) // size):
        group_of = None
    if group_of is not None and not (group_of.min() >= 0 and group_of.max() < groups):
        raise parts.error("", f"has a g_idx from {group_of.min()} to {group_of.max()} for {groups} groups")

    order = None
    if group_of is not None and (np.bincount(group_of, minlength=groups) == size).all():
        order, group_of = np.argsort(group_of, kind="stable").astype(np.int32), None

    def read(rows: slice) -> Groups:
        own, own_scales = codes(rows), scales[rows]
        own_zeros = None if zeros is None else zeros[rows]
        if order is not None:
            own = own[:, order]
        elif group_of is not None:
            own_scales = own_scales[:, group_of]
            own_zeros = None if own_zeros is None else own_zeros[:, group_of]
        own = own.reshape(*own_scales.shape, -1)
        if own_zeros is None:
            return Groups((own ^ half if bits == 8 else own - half).view(np.int8), own_scales)
        return Groups(own, own_scales, zeros=own_zeros)

    form = f"{method} int{bits}, {describe_groups(size, cols)}"
    if group_of is not None:
        return QuantisedWeight(shape, f"{form}, act-order", Encoding.F16, parts.stored_bytes, read)
    if order is not None:
        form += ", act-order"
    runs_as = Encoding.F16
    if size % 32 == 0 and zeros is None:
        runs_as = Encoding.Q8_0 if bits == 8 else Encoding.Q4_0
    elif size % 32 == 0:
        runs_as = Encoding.U8_1 if bits == 8 else Encoding.Q4_1
    return QuantisedWeight(shape, form, runs_as, parts.stored_bytes, read, order=order)


def describe_groups(size: int, cols: int) -> str:
    """How many columns share a scale, for people."""
    return "a scale a row" if size == cols else f"groups of {size}"
