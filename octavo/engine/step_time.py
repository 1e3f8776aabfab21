"""How long a step takes: a model of four numbers, fitted to the steps that were measured last."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_WINDOW = 64
_FEWEST = 8


class StepTime:
    """seconds = base + per_token x tokens + per_pair x pairs + per_prompt_pair x prompt pairs, none negative.

    `tokens` are those that a step computes, `pairs` the (query, key) pairs of its attention: for a token at
    position p it is p + 1. Those of a prompt's chunk are counted apart: one sequence's keys are not shared
    out, nor read for as many queries, like those of many that decode. The base is what reading the weights
    takes. All are fitted to the last 64 steps that only decode and to the last 64 with a prompt, so an hour
    of decoding does not make them forget what a prompt costs. The fit is by least squares of the relative
    error, which one slow moment of the machine can hardly change.
    """

    def __init__(self) -> None:
        self._rows = np.zeros((2 * _WINDOW, 5))
        """1, tokens, pairs, those of prompts, seconds; the first half is for steps that only decode."""
        self._counts = [0, 0]
        self._fit: NDArray[np.float64] | None = None

    @property
    def known(self) -> bool:
        """Whether enough was measured to ask."""
        return sum(self._counts) >= _FEWEST

    def observe(
        self,
        num_tokens: int,
        num_pairs: int,
        seconds: float,
        *,
        with_prompt: bool,
        num_prompt_pairs: int = 0,
    ) -> None:
        """Take in a step that was measured; `num_prompt_pairs` of its pairs are counted apart."""
        count = self._counts[with_prompt]
        row = with_prompt * _WINDOW + count % _WINDOW
        self._rows[row] = (
            1.0,
            num_tokens,
            num_pairs - num_prompt_pairs,
            num_prompt_pairs,
            max(seconds, 1e-9),
        )
        self._counts[with_prompt] = count + 1
        self._fit = None

    def seconds(self, num_tokens: int, num_pairs: float) -> float:
        """How long a step takes whose pairs are not counted apart."""
        base, per_token, per_pair, _ = self._coefficients()
        return float(base + per_token * num_tokens + per_pair * num_pairs)

    def prompt_seconds(self, num_tokens: int, context: int) -> float:
        """How much longer a step takes with that many tokens of a prompt after `context` others."""
        _, per_token, _, per_pair = self._coefficients()
        return float(per_token * num_tokens + per_pair * prompt_pairs(num_tokens, context))

    def tokens_within(self, seconds: float, context: int) -> float:
        """The most tokens of a prompt after `context` others that make a step `seconds` longer."""
        _, per_token, _, per_pair = self._coefficients()
        # per_pair / 2 k^2 + (per_token + per_pair (context + 1/2)) k = seconds, in a form that is stable.
        linear = per_token + per_pair * (context + 0.5)
        if seconds <= 0.0:
            return 0.0
        divisor = linear + np.sqrt(linear * linear + 2 * per_pair * seconds)
        return float(2 * seconds / divisor) if divisor > 0 else float("inf")

    def _coefficients(self) -> NDArray[np.float64]:
        if self._fit is None:
            self._fit = _fit(self._rows[self._rows[:, 0] > 0])
        return self._fit


def prompt_pairs(num_tokens: int, context: int) -> int:
    """(query, key) pairs of `num_tokens` tokens that follow `context` others."""
    return num_tokens * context + num_tokens * (num_tokens + 1) // 2


def _fit(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """The coefficients, at least 0, of the smallest relative error; where rows leave a choice, small ones."""
    features = rows[:, :-1] / rows[:, -1:]
    scale = np.sqrt((features * features).sum(axis=0)) + 1e-300
    features = features / scale
    gram = features.T @ features + 1e-6 * np.eye(4)
    target = features.sum(axis=0)
    used = [0, 1, 2, 3]
    while True:
        solution = np.linalg.solve(gram[np.ix_(used, used)], target[used])
        if solution.min() >= 0.0:
            break
        del used[int(solution.argmin())]
    fit = np.zeros(4)
    fit[used] = solution / scale[used]
    return fit
