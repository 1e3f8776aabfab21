"""Softmax weights as integers, so that every sum over them is exact.

A sum of floats depends on the order of its additions, hence on vector width, blocks and threads. Here a
token's weight is a multiple of 2^-40 of the most likely one's, held in an int64. Sums are exact in any order,
so what top-p keeps and what a draw gives are exact comparisons. The float32 steps before the rounding are
spelled out one by one, none of them fused, so that `csrc/kernels/sampling.h` computes the same bits on every
processor.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

BITS = 40
ONE = 1 << BITS
"""The weight of the most likely token. A vocabulary of 2^22 tokens sums to less than 2^63."""

LOG2_E = math.log2(math.e)

# 2^f = 1 + f (c1 + f (c2 + ...)) for |f| <= 1/2: minimax in relative error, 9.2e-8; 1.9e-7 with float32
# rounding. The temperature's division rounds to about as much.
_COEFFICIENTS = tuple(
    np.float32(each) for each in (0.0013264727, 0.009671513, 0.055507336, 0.24022242, 0.693147, 1.0)
)


def weigh(
    logits: NDArray[np.float32], top: np.float32, temperature: float = 1.0, min_p: float = 0.0
) -> NDArray[np.int64]:
    """`[N]` weights round(2^40 exp((logit - top) / temperature)) of logits that are at most `top`, finite.

    A token less than `min_p` (or 2^-40) times as likely as one of logit `top` weighs nothing; that one
    weighs 2^40. Source: min-p sampling (Nguyen et al., 2024).
    """
    exponent = (logits - top) * np.float32(LOG2_E / temperature)
    floor = log2_floor(min_p)
    kept = exponent >= floor
    exponent = np.maximum(exponent, floor)
    whole = np.rint(exponent)
    fraction = exponent - whole
    power = _COEFFICIENTS[0] * fraction
    for coefficient in _COEFFICIENTS[1:-1]:
        power = (power + coefficient) * fraction
    power = power + _COEFFICIENTS[-1]
    weights = np.rint(np.ldexp(power, whole.astype(np.int32) + BITS)).astype(np.int64)
    return np.where(kept, weights, 0)


def log2_floor(min_p: float) -> np.float32:
    """The lowest log2 of a relative probability that still has a weight."""
    return np.float32(max(-float(BITS), math.log2(min_p)) if min_p > 0.0 else -BITS)


def share(total: int, fraction: float) -> int:
    """The least whole weight that is at least `fraction`, under 1, of `total`."""
    return min(math.ceil(fraction * total), total)
