"""Logits that can be computed with, from whatever the model gave."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

_LARGEST = float(np.finfo(np.float32).max)


def sanitise(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """`[V]` logits with NaN read as -inf and +inf as the largest float32.

    One row of a broken model, or an overflow, must not end the step that its batch shares. Costs one pass
    for the maximum (which is NaN when any logit is); a row that needs no change is returned as it is.
    """
    if math.isfinite(logits.max()):
        return logits
    return np.nan_to_num(logits, nan=-np.inf, posinf=_LARGEST, neginf=-np.inf)
