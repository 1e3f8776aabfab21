"""AWQ (Lin et al., 2023): columns that meet large inputs are made larger before they are rounded.

For each linear, or several that share an input, the factor of input i is (mean |x_i|)^ratio. A few ratios are
tried. The one is taken that leaves the least squared error in the outputs on a calibration text. What is
multiplied into a weight is divided out of what comes before it (`octavo.quantise.folding`), so the model
computes the same but for rounding.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

import numpy as np

from octavo.formats.groups import Floats, Groups
from octavo.formats.rounding import GROUP
from octavo.formats.scaling import Scaling
from octavo.model.decoder import trace
from octavo.model.spec import ModelSpec
from octavo.quantise.calibration import CalibrationRun, Linear, Sequences
from octavo.quantise.folding import Fold, folds, not_folded

_log = logging.getLogger(__name__)

Rounding = Callable[[Floats, Floats | None], Groups]
"""From rows, and the importance of their columns, to codes and scales."""

_RATIOS = tuple(np.arange(0, 1, 0.1))
_MOST_ROWS, _MOST_TOKENS = 512, 512
"""Of a weight and of its inputs, what the ratios are compared on: every n-th, spread evenly."""


def awq_scalings(
    spec: ModelSpec,
    weights: Mapping[str, Floats],
    sequences: Sequences,
    round_rows: Rounding,
    size: int = GROUP,
    done: Callable[[], None] = lambda: None,
) -> dict[str, Scaling]:
    """The scaling of each weight, vectors among them, that has one; `done` is called after each linear.

    `sequences` are token ids of a text such as the model will see. Left alone are the head, and linears whose
    rows are not whole groups of `size`.
    """
    program = trace(spec)
    found = folds(program)
    for (part, op), count in not_folded(program, found).items():
        _log.warning(
            "AWQ does not scale %s, in %d layers: octavo cannot move factors of its inputs through %s",
            part,
            count,
            op,
        )
    scalings: dict[str, Scaling] = {}
    for linear in CalibrationRun(spec, weights, sequences).linears():
        if "lm_head.weight" in linear.names:
            break
        if linear.names[0] in found and linear.inputs.shape[1] % size == 0:
            _scale(linear, found[linear.names[0]], weights, round_rows, scalings)
        done()
    return scalings


def _scale(
    linear: Linear,
    fold: Fold,
    weights: Mapping[str, Floats],
    round_rows: Rounding,
    scalings: dict[str, Scaling],
) -> None:
    inputs = linear.inputs[:: -(-len(linear.inputs) // _MOST_TOKENS)]
    square: Floats = np.square(linear.inputs).mean(axis=0)
    matrices = []
    for name in linear.names:
        matrix = weights[name]
        matrices.append(matrix[:: -(-len(matrix) // _MOST_ROWS)].copy())  # of which no more is kept
    magnitudes = _shared(np.abs(linear.inputs).mean(axis=0), fold)
    factors = _best_factors(inputs, magnitudes, matrices, square, fold, round_rows)
    columns = _spread(factors, fold)
    for name in linear.names:
        own = scalings.setdefault(name, Scaling())
        own.columns, own.importance = columns, np.divide(square, np.square(columns), dtype=np.float32)
    for name in (*fold.vectors, *([fold.matrix] if fold.matrix else [])):
        scalings.setdefault(name, Scaling()).rows = np.reciprocal(factors)


def _best_factors(
    inputs: Floats,
    magnitudes: Floats,
    matrices: list[Floats],
    square: Floats,
    fold: Fold,
    round_rows: Rounding,
) -> Floats:
    """The factors, one for each entry of what they are divided out of, with the least error."""
    best: Floats = np.ones_like(magnitudes)
    least = np.inf
    for ratio in _RATIOS:
        factors: Floats = np.maximum(magnitudes, np.float32(1e-6)) ** np.float32(ratio)
        factors = factors / np.sqrt(factors.max() * factors.min())
        columns = _spread(factors, fold)
        importance = np.divide(square, np.square(columns), dtype=np.float32)
        error = 0.0
        for matrix in matrices:
            missed = round_rows(matrix * columns, importance).values() / columns - matrix
            error += float(np.square(inputs @ missed.T).sum(dtype=np.float64))
        if error < least:
            best, least = factors, error
    return best


def _shared(magnitudes: Floats, fold: Fold) -> Floats:
    """The mean over the inputs that an entry feeds."""
    shared: Floats = magnitudes.reshape(-1, fold.repeats, fold.head_dim).mean(axis=1).reshape(-1)
    return shared


def _spread(factors: Floats, fold: Fold) -> Floats:
    """The factor of each input of the linear."""
    heads = factors.reshape(-1, 1, fold.head_dim)
    return np.repeat(heads, fold.repeats, axis=1).reshape(-1)
