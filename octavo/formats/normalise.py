"""From any stored form to one that the backends run.

A weight keeps its exact values where an encoding of `RUNS` can hold them. Where only its scales and minimums
are too fine for that, they are rounded to float16. That moves either term of a value by at most 1/2048 of
itself, as float16 weights would. It is a few hundredths of the step between two codes at most. Otherwise the
values become float16, or float32 where they are outside float16's range.

    stored                       runs as   exact?
    F32 F16 BF16                 itself    yes
    Q4_0 Q4_1 Q8_0 Q5_0 Q5_1     itself    yes
    IQ4_NL MXFP4                 itself    yes
    Q4_K Q5_K Q6_K IQ4_XS        itself    17-bit scales and minimums, rounded to the 11 of float16
    Q2_K                         itself    13-bit scales and minimums, rounded to the 11 of float16
    Q3_K                         Q8_0      yes: scale times code fits int8, and leaves one float16 scale
    Q8_K                         Q8_0      float32 scales, rounded alike

Weights of Hugging Face's methods say themselves what they run as. 4-bit codes with zero points of 8, in
groups of whole 32s, run as Q4_0. Codes with other zero points run as Q4_1 and U8_1, with minimums of -(scale
* zero). int8 runs as Q8_0. FP8 runs as F8_E4M3, whose scales stay float32. bitsandbytes' NF4 and FP4 become
the encodings of that name, whose tables are integers: see `codebook_quants` for what that costs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import prod

import numpy as np
from numpy.typing import NDArray

from octavo.formats.arranged import AnyWeight, Arranged, source_of
from octavo.formats.codebook_quants import (
    FP4_FLOATS,
    FP4_STEPS,
    MXFP4_TABLE,
    NF4_FLOATS,
    NF4_STEPS,
    half_power_of_two,
    iq4_xs_scales,
)
from octavo.formats.groups import Floats, Groups
from octavo.formats.k_quants import q2_k_scales_and_minimums, q3_k_folded, q6_k_scales, scales_and_minimums
from octavo.formats.rounding import encode_e4m3
from octavo.formats.tensor import Encoding, Tensor, row_slices
from octavo.formats.weight import QuantisedWeight, Weight

_RUNS_AS = {
    Encoding.Q3_K: Encoding.Q8_0,
    Encoding.Q8_K: Encoding.Q8_0,
}

RUNS = frozenset(Encoding) - _RUNS_AS.keys()
"""The encodings that every backend runs."""

_ROUNDED: dict[Encoding, Callable[[NDArray[np.uint8]], tuple[Floats, ...]]] = {
    Encoding.Q2_K: q2_k_scales_and_minimums,
    Encoding.Q4_K: scales_and_minimums,
    Encoding.Q5_K: scales_and_minimums,
    Encoding.Q6_K: lambda blocks: (q6_k_scales(blocks),),
    Encoding.IQ4_XS: lambda blocks: (iq4_xs_scales(blocks),),
    Encoding.MXFP4: lambda blocks: (half_power_of_two(blocks[:, :1]),),
}
"""The numbers of the encodings in `RUNS` that the kernels' float16 may not hold, from blocks."""

_PACKED_BYTES = {
    Encoding.Q5_0: 34,
    Encoding.Q5_1: 36,
    Encoding.Q2_K: 24,
    Encoding.Q4_K: 20,
    Encoding.Q5_K: 36,
    Encoding.Q6_K: 36,
    Encoding.IQ4_XS: 18,
    Encoding.MXFP4: 18,
}
"""Bytes that the kernels take for 32 values, where it is not what is stored: 2 bits become 4, 5 and 6 8."""

_MXFP4_NIBBLES = np.zeros(25, np.uint8)
_MXFP4_NIBBLES[MXFP4_TABLE.astype(np.int16)[::-1] + 12] = np.arange(16, dtype=np.uint8)[::-1]
"""The nibble of each value of MXFP4_TABLE, from -12 on."""

_GROUP = 32
_SMALLEST, _LARGEST = 2**-14, 65504
"""The bounds of float16 with all of its 11 bits."""


def runs_as(weight: AnyWeight) -> Encoding:
    """What `normalise` makes of a matrix, unless its numbers are outside float16's range."""
    weight = source_of(weight)
    if isinstance(weight, QuantisedWeight):
        return weight.runs_as
    return _RUNS_AS.get(weight.encoding, weight.encoding)


def packed_bytes(encoding: Encoding, rows: int, cols: int) -> int:
    """What the native backend's copy of a matrix in an encoding of `RUNS` takes, whole panels of 16 rows."""
    values = -(-rows // 16) * 16 * cols
    if encoding in _PACKED_BYTES:
        return values // _GROUP * _PACKED_BYTES[encoding]
    return values // encoding.group_size * encoding.group_bytes


def normalise(weight: AnyWeight) -> Tensor:
    """`weight` in an encoding of `RUNS`: itself where it has one, else a copy."""
    if isinstance(weight, Arranged):
        weight = weight.take()
    if isinstance(weight, Tensor) and weight.encoding in RUNS:
        if _fits(weight):
            return weight
        forms = [Encoding.F16]
    else:
        forms = [runs_as(weight), Encoding.F16]
    for encoding in forms:
        if (packed := _packed(weight, encoding)) is not None:
            return packed
    return Tensor.from_array(weight.to_float32())


def _fits(tensor: Tensor) -> bool:
    """Whether float16 holds the scales and minimums of `tensor`, rounded."""
    numbers = _ROUNDED.get(tensor.encoding)
    if numbers is None:
        return True
    blocks = tensor.data.reshape(tensor.rows, -1, tensor.encoding.group_bytes)
    return all(
        _halves(each) is not None
        for rows in row_slices(tensor.rows, tensor.shape[-1])
        for each in numbers(blocks[rows].reshape(-1, tensor.encoding.group_bytes))
    )


def _packed(weight: Weight, encoding: Encoding) -> Tensor | None:
    """`weight` in `encoding`; None where a number in it is outside float16's range."""
    data = np.empty(prod(weight.shape) // encoding.group_size * encoding.group_bytes, np.uint8)
    end = 0
    order = weight.order
    chunks = _chunks(weight)
    if order is not None and encoding.is_float:
        chunks, order = _in_order(chunks, order), None
    for chunk in chunks:
        part = pack(chunk, encoding)
        if part is None:
            return None
        data[end : end + part.size] = part.reshape(-1)
        end += part.size
    packed = Tensor(weight.shape, encoding, data, order)
    return packed if _fits(packed) else None


def pack(groups: Groups, encoding: Encoding) -> NDArray[np.uint8] | None:
    """The bytes of `groups` in `encoding`, one of Q8_0, Q4_0, Q4_1 and F16, that fits their codes.

    None where a number is outside float16's range.
    """
    return _PACK[encoding](groups)


def _chunks(weight: Weight) -> Iterator[Groups]:
    if isinstance(weight, Tensor) and weight.encoding is Encoding.Q3_K:
        return weight.chunks_by(q3_k_folded)
    return weight.chunks()


def _in_order(chunks: Iterator[Groups], order: NDArray[np.int32]) -> Iterator[Groups]:
    """The values of `chunks` with their columns put back in place: floats are multiplied as they come."""
    back = np.argsort(order)
    for chunk in chunks:
        yield Groups(chunk.values()[:, None, back], np.ones((len(chunk.codes), 1), np.float32))


def _pack_q8_0(groups: Groups) -> NDArray[np.uint8] | None:
    return _records(groups, [groups.scales], groups.codes.view(np.uint8).reshape(-1, _GROUP))


def _pack_q4_0(groups: Groups) -> NDArray[np.uint8] | None:
    return _records(groups, [groups.scales], _nibble_pairs((groups.codes + np.int8(8)).view(np.uint8)))


def _pack_q4_1(groups: Groups) -> NDArray[np.uint8] | None:
    return _records(groups, [groups.scales, _minimums(groups)], _nibble_pairs(groups.codes))


def _pack_u8_1(groups: Groups) -> NDArray[np.uint8] | None:
    return _records(groups, [groups.scales, _minimums(groups)], groups.codes.reshape(-1, _GROUP))


def _pack_mxfp4(groups: Groups) -> NDArray[np.uint8]:
    """Scales are powers of two; a zero loses its sign."""
    nibbles = _MXFP4_NIBBLES[groups.codes.astype(np.int16) + 12]
    exponents = np.frexp(groups.scales)[1] + 127  # of 2^(e - 128), which frexp calls 1/2 2^(e - 127)
    return np.concatenate([exponents.astype(np.uint8).reshape(-1, 1), _nibble_pairs(nibbles)], axis=1)


def _pack_floats4(groups: Groups, table: Floats, steps: int) -> NDArray[np.uint8] | None:
    """Codes are values of `table`, which integers of so many steps stand for; a zero loses its sign."""
    order = np.argsort(table, kind="stable")
    nibbles = order.astype(np.uint8)[np.searchsorted(table, groups.codes, sorter=order)]
    return _records(groups, [groups.scales / np.float32(steps)], _nibble_pairs(nibbles))


def _pack_f8(groups: Groups) -> NDArray[np.uint8] | None:
    """Exact; the kernels have no NaN."""
    if np.isnan(groups.codes).any():
        return None
    codes = encode_e4m3(groups.codes).reshape(-1, _GROUP)
    scales = np.repeat(groups.scales.reshape(-1), groups.codes.shape[2] // _GROUP)
    return np.concatenate([scales.astype(np.float32).view(np.uint8).reshape(-1, 4), codes], axis=1)


def _minimums(groups: Groups) -> Floats:
    minimums = groups.minimums if groups.zeros is None else -(groups.scales * groups.zeros)
    assert minimums is not None
    return minimums


def _pack_f16(groups: Groups) -> NDArray[np.uint8] | None:
    return _halves(groups.values())


_PACK = {
    Encoding.Q8_0: _pack_q8_0,
    Encoding.Q4_0: _pack_q4_0,
    Encoding.Q4_1: _pack_q4_1,
    Encoding.U8_1: _pack_u8_1,
    Encoding.F8_E4M3: _pack_f8,
    Encoding.MXFP4: _pack_mxfp4,
    Encoding.NF4: lambda groups: _pack_floats4(groups, NF4_FLOATS, NF4_STEPS),
    Encoding.FP4: lambda groups: _pack_floats4(groups, FP4_FLOATS, FP4_STEPS),
    Encoding.F16: _pack_f16,
}


def _records(groups: Groups, numbers: list[Floats], codes: NDArray[np.uint8]) -> NDArray[np.uint8] | None:
    """`[groups of 32, bytes]`: the float16 `numbers` of the group that each lies in, then its `codes`."""
    repeats = groups.codes.shape[2] // _GROUP
    head = 2 * len(numbers)
    records = np.empty((len(codes), head + codes.shape[1]), np.uint8)
    for i, each in enumerate(numbers):
        halves = _halves(each)
        if halves is None:
            return None
        records[:, 2 * i : 2 * i + 2] = np.repeat(halves.reshape(-1, 2), repeats, axis=0)
    records[:, head:] = codes
    return records


def _nibble_pairs(codes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Codes below 16 as `[groups of 32, 16]` bytes: the first half's in the low nibbles."""
    halves = codes.reshape(-1, 2, _GROUP // 2)
    return halves[:, 0] | halves[:, 1] << np.uint8(4)


def _halves(values: Floats) -> NDArray[np.uint8] | None:
    """`[rows, n]` as the bytes of float16s; None where they are outside its range.

    That is where one is too large, or where all are so small that they would lose bits as subnormals. A small
    one beside others that are not is rounded to a multiple of 2^-24: 1/2048 of the largest, at most.
    """
    largest = np.abs(values).max()
    with np.errstate(over="ignore", invalid="ignore"):
        halves = values.astype(np.float16, order="C")
    if not _SMALLEST <= largest <= _LARGEST and not np.array_equal(halves, values):
        return None
    return halves.view(np.uint8)
