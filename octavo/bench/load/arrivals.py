"""When requests are sent."""

from __future__ import annotations

import itertools
import math
import random


def arrival_times(count: int, rate: float, burstiness: float, seed: int) -> list[float]:
    """Seconds from the start for each of `count` requests, `rate` a second, ascending.

    The gaps are gamma distributed with shape `burstiness` and mean 1 / `rate`; a shape of 1 is a Poisson
    process. After they are drawn they are scaled to that mean exactly, since otherwise a short run would have
    another rate than was asked for. An infinite rate sends all at once.
    """
    if math.isinf(rate):
        return [0.0] * count
    draw = random.Random(seed)
    gaps = [draw.gammavariate(burstiness, 1 / (rate * burstiness)) for _ in range(count)]
    total = sum(gaps)
    scale = count / rate / total if total else 0.0
    times = list(itertools.accumulate(gap * scale for gap in gaps))
    # The first request is sent at once; else the server idles for the first gap of the run.
    return [time - times[0] for time in times]
