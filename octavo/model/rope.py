"""Rotary position embedding: the frequencies, their scaling to longer contexts, and the table.

Source: RoFormer (Su et al., 2021); the scalings as transformers' modeling_rope_utils defines them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_TABLE_STEP = 1024
"""Positions whose angles are worked out at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearScaling:
    """Position interpolation (Chen et al., 2023): every frequency divided by `factor`."""

    factor: float

    def scale(self, frequencies: NDArray[np.float64], rope: Rope) -> NDArray[np.float64]:
        """`frequencies`, `[dim / 2]`, scaled."""
        return frequencies / self.factor


@dataclass(frozen=True, slots=True, kw_only=True)
class Llama3Scaling:
    """Llama 3.1: long wavelengths divided by `factor`, short ones kept, a ramp between them."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position: int

    def __post_init__(self) -> None:
        if self.high_freq_factor <= self.low_freq_factor:
            raise ValueError(
                f"high_freq_factor must be above low_freq_factor {self.low_freq_factor}, "
                f"got {self.high_freq_factor}"
            )

    def scale(self, frequencies: NDArray[np.float64], rope: Rope) -> NDArray[np.float64]:
        """`frequencies`, `[dim / 2]`, scaled."""
        rotations = self.original_max_position * frequencies / (2 * math.pi)
        kept = (rotations - self.low_freq_factor) / (self.high_freq_factor - self.low_freq_factor)
        kept = np.clip(kept, 0.0, 1.0)
        return frequencies * (kept + (1.0 - kept) / self.factor)


@dataclass(frozen=True, slots=True, kw_only=True)
class YarnScaling:
    """YaRN (Peng et al., 2023): interpolation by parts; cosines and sines are times `attention_factor`."""

    factor: float
    original_max_position: int
    attention_factor: float
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True

    def scale(self, frequencies: NDArray[np.float64], rope: Rope) -> NDArray[np.float64]:
        """`frequencies`, `[dim / 2]`, scaled."""
        low, high = self._dimension(self.beta_fast, rope), self._dimension(self.beta_slow, rope)
        if self.truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0.0), min(high, rope.dim - 1.0)
        ramp = (np.arange(rope.dim // 2) - low) / (high - low if high != low else 0.001)
        interpolated: NDArray[np.float64] = np.clip(ramp, 0.0, 1.0)
        return frequencies * (1.0 - interpolated + interpolated / self.factor)

    def _dimension(self, num_rotations: float, rope: Rope) -> float:
        """The dimension that turns `num_rotations` times within the original context."""
        wavelengths = self.original_max_position / (num_rotations * 2 * math.pi)
        return rope.dim * math.log(wavelengths) / (2 * math.log(rope.theta))


def yarn_attention_factor(factor: float, mscale: float = 1.0, mscale_all_dim: float = 0.0) -> float:
    """YaRN's attention factor where a model states none: `0.1 ln(factor) + 1`, or DeepSeek's ratio of two."""

    def magnitude(scale: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * scale * math.log(factor) + 1.0

    return magnitude(mscale) / magnitude(mscale_all_dim)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rope:
    """Rotary embedding of the first `dim` columns of a head with base `theta`.

    `divisors`, `[dim / 2]` where given, divide the frequencies (a GGUF's rope_freqs). Raises ValueError when
    the numbers do not make a rotary embedding.
    """

    dim: int
    theta: float
    scaling: LinearScaling | Llama3Scaling | YarnScaling | None = None
    divisors: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.dim < 2 or self.dim % 2:
            raise ValueError(f"rotary dimension must be even, got {self.dim}")
        if self.theta <= 1:
            raise ValueError(f"rope theta must be above 1, got {self.theta}")
        if self.divisors and (len(self.divisors) != self.dim // 2 or not min(self.divisors) > 0):
            raise ValueError(f"rope frequency factors must be {self.dim // 2} positive numbers")

    def frequencies(self) -> NDArray[np.float64]:
        """Radians per position of each pair of columns, `[dim / 2]`."""
        frequencies: NDArray[np.float64] = self.theta ** (-np.arange(0, self.dim, 2) / self.dim)
        if self.divisors:
            frequencies = frequencies / np.array(self.divisors)
        return frequencies if self.scaling is None else self.scaling.scale(frequencies, self)

    def table(self, max_positions: int) -> NDArray[np.float32]:
        """The rope weight of `octavo.runtime.ops`: `[max_positions, dim]`, cosines then sines in a row.

        Angles are float64: in float32 they are off by up to 0.004 radians at position 65,536.
        """
        magnitude = self.scaling.attention_factor if isinstance(self.scaling, YarnScaling) else 1.0
        frequencies, half = self.frequencies(), self.dim // 2
        table = np.empty((max_positions, self.dim), np.float32)
        for start in range(
            0, max_positions, _TABLE_STEP
        ):  # few enough for the float64 angles to stay in cache
            rows = table[start : start + _TABLE_STEP]
            angles = np.outer(np.arange(start, start + len(rows)), frequencies)
            rows[:, :half] = np.cos(angles) * magnitude
            rows[:, half:] = np.sin(angles) * magnitude
        return table

    def max_position(self, described: int) -> int:
        """Positions that a model takes whose description says `described`, as vLLM counts them.

        Linear scaling stretches what is described. YaRN's `factor` is of the original length, whether or not
        the description has it multiplied in.
        """
        match self.scaling:
            case LinearScaling(factor=factor):
                return int(described * factor)
            case YarnScaling(factor=factor, original_max_position=original):
                return max(described, int(original * factor))
        return described
