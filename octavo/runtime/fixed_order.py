"""Sums in an order that follows from the number of terms alone: a row has the same bits in any batch.

BLAS and NumPy's own reductions add in an order that depends on how many rows there are, how they lie in
memory and what the processor is. Here all is elementwise multiplication and addition, which IEEE 754 defines
to the last bit.

The order: terms are cut into runs of 64, from the first on. A run is folded: with h the largest power of two
below its length, term h + i is added to term i, and so on with the h that are left, until one is. Then the
runs' sums are added to 0, first to last. So terms of 0 behind all others, or whole runs of them before,
leave the sum as it is.
"""

from __future__ import annotations

from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

RUN = 64
_PIECE_TERMS = 1 << 18
"""Terms that are in memory at a time: 1 MiB, which stays in a core's cache."""
_PIECE_EXPONENTS = 1 << 14

_LOG2_E, _LN_2 = float.fromhex("0x1.71547652b82fep+0"), float.fromhex("0x1.62e42fefa39efp-1")
# 2^f for |f| <= 1/2 by Taylor's series, up to f^8: what is left out is below 2^-31 of it.
_COEFFICIENTS = list(accumulate(range(1, 9), lambda before, n: before * _LN_2 / n, initial=1.0))[::-1]


def total(terms: Floats) -> Floats:
    """The sum over the last axis."""
    terms = np.moveaxis(terms, -1, 0)
    result = np.zeros(terms.shape[1:], np.float32)
    for start in range(0, len(terms), RUN):
        result += _fold(terms[start : start + RUN].copy())
    return result


def product(rows: Floats, matrix: Floats) -> Floats:
    """`rows @ matrix`, for `[rows, terms]` and `[terms, cols]`."""
    (num_rows, num_terms), num_cols = rows.shape, matrix.shape[1]
    terms, matrix = np.ascontiguousarray(rows.T)[:, :, None], np.ascontiguousarray(matrix)[:, None, :]
    result = np.zeros((num_rows, num_cols), np.float32)
    run = min(RUN, num_terms)
    width = max(1, min(num_cols, _PIECE_TERMS // max(1, run)))
    height = max(1, min(num_rows, _PIECE_TERMS // max(1, run * width)))
    space = np.empty(run * height * width, np.float32)
    for left in range(0, num_cols, width):
        for top in range(0, num_rows, height):
            piece = result[top : top + height, left : left + width]
            for start in range(0, num_terms, RUN):
                factors = terms[start : start + RUN, top : top + height]
                products = space[: len(factors) * piece.size].reshape(-1, *piece.shape)
                np.multiply(factors, matrix[start : start + RUN, :, left : left + width], out=products)
                piece += _fold(products)
    return result


def exp(x: Floats) -> Floats:
    """e^x of numbers that are at most 0, to within 0.51 of a float32's last place; NaN stays NaN.

    NumPy's own differs between processors, in float64 too. This is 2^(whole + fraction) in float64, with a
    polynomial for the fraction, in steps that IEEE 754 defines each.
    """
    flat = x.reshape(-1)
    result = np.empty_like(flat)
    for start in range(0, len(flat), _PIECE_EXPONENTS):
        exponent = np.maximum(flat[start : start + _PIECE_EXPONENTS].astype(np.float64) * _LOG2_E, -200)
        whole = np.rint(exponent)
        fraction = exponent - whole
        power = np.full_like(fraction, _COEFFICIENTS[0])
        for coefficient in _COEFFICIENTS[1:]:
            power *= fraction
            power += coefficient
        with np.errstate(invalid="ignore"):
            shift = whole.astype(np.int32)
        result[start : start + _PIECE_EXPONENTS] = np.ldexp(power, shift)
    return result.reshape(x.shape)


def _fold(terms: Floats) -> Floats:
    """The sum over the first axis of one run, whose terms are overwritten."""
    left = len(terms)
    while left > 1:
        half = 1 << (left - 1).bit_length() - 1
        terms[: left - half] += terms[half:left]
        left = half
    folded: Floats = terms[0]
    return folded
