"""GPTQ (Frantar et al., 2023): columns are rounded one after the other, each making up for those before it.

With H = X^T X of the inputs X, the error of a rounded column is spread over the columns that are still to be
rounded so that the outputs on X change least. Columns go in order of falling H_ii, with the scales that their
groups had at the outset, so the order leaves no trace in the file ("static groups" in AutoGPTQ).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from octavo.formats.groups import Floats, Groups
from octavo.model.spec import ModelSpec
from octavo.quantise.calibration import CalibrationRun, Sequences
from octavo.quantise.scheme import Scheme

DAMPING = 0.01
"""Added to H's diagonal, in parts of its mean: it bounds columns that hardly ever have an input."""

_BLOCK = 128
"""Columns whose errors are put together before the rest of the matrix sees them."""

_EXACT_COLS = 4096
"""Columns up to which H is factored in float64."""

Write = Callable[[str, Groups], None]
Written = Callable[[str], Floats | None]


def gptq_linears(
    spec: ModelSpec,
    weights: Mapping[str, Floats],
    sequences: Sequences,
    scheme: Scheme,
    write: Write,
    written: Written,
) -> None:
    """Round the linears of all layers in order, each on what the rounded ones before it give.

    `write` gets each one by canonical name. `written` gives the values of one that an earlier run wrote, or
    None; a linear that `scheme` does not fit stays as it is.
    """
    run = CalibrationRun(spec, weights, sequences)
    for linear in run.linears():
        if "lm_head.weight" in linear.names:
            break
        root: Any = None
        for name in linear.names:
            values = written(name)
            if values is None:
                if linear.inputs.shape[1] % scheme.size:
                    continue
                if root is None:
                    hessian = linear.inputs.T @ linear.inputs
                    order, root = _order_and_root(hessian)
                    importance = _mean_square(linear.inputs)
                groups = _round_columns(weights[name], importance, order, root, scheme)
                write(name, groups)
                values = groups.values()
            run.replace(name, values)


def gptq(weight: Floats, inputs: Floats, scheme: Scheme) -> Groups:
    """`weight`, `[rows, cols]`, rounded for `inputs`, `[tokens, cols]`."""
    hessian = inputs.T @ inputs
    order, root = _order_and_root(hessian)
    return _round_columns(weight, _mean_square(inputs), order, root, scheme)


def _mean_square(inputs: Floats) -> Floats:
    square: Floats = np.square(inputs).mean(axis=0)
    return square


def _order_and_root(hessian: Floats) -> tuple[NDArray[np.intp], Floats]:
    """The order of the columns, and the upper U with U^T U = H^-1 for H in that order."""
    diagonal = np.diag(hessian)
    order = np.argsort(-diagonal, kind="stable")
    damped: NDArray[Any] = hessian[np.ix_(order, order)]
    if len(hessian) <= _EXACT_COLS:
        damped = damped.astype(np.float64)
    # An H of zeros, from inputs of zeros, leaves nothing to make up for: any positive diagonal will do.
    damped[np.diag_indices_from(damped)] += max(DAMPING * float(diagonal.mean()), 1e-6)
    # H = R R^T with R upper is Cholesky's factor of H turned about, and then U = R^-1.
    upper = np.linalg.cholesky(damped[::-1, ::-1])[::-1, ::-1]
    return order, np.linalg.inv(upper).astype(np.float32)


def _round_columns(
    weight: Floats, importance: Floats, order: NDArray[np.intp], root: Floats, scheme: Scheme
) -> Groups:
    start = scheme.round(weight, importance)
    group_of = order // start.codes.shape[2]
    scales = start.scales
    offsets = np.zeros_like(scales)  # what a code of 0 stands for, in values
    if start.zeros is not None:
        offsets = -scales * start.zeros
    elif start.minimums is not None:
        offsets = start.minimums
    with np.errstate(divide="ignore"):
        inverses = np.where(scales == 0, np.float32(0), 1 / scales)

    rest = np.ascontiguousarray(weight[:, order].T)  # columns as rows: each is read and written whole
    codes = np.empty(rest.shape, start.codes.dtype)
    for first in range(0, len(rest), _BLOCK):
        last = min(first + _BLOCK, len(rest))
        errors = np.empty((last - first, rest.shape[1]), np.float32)
        for i in range(first, last):
            group = group_of[i]
            code = scheme.nearest((rest[i] - offsets[:, group]) * inverses[:, group])
            codes[i] = code
            missed = rest[i] - (code * scales[:, group] + offsets[:, group])
            errors[i - first] = missed / root[i, i]
            rest[i + 1 : last] -= root[i, i + 1 : last, None] * errors[i - first]
        rest[last:] -= root[first:last, last:].T @ errors
    in_order = np.empty(rest.shape[::-1], codes.dtype)
    in_order[:, order] = codes.T
    return replace(start, codes=in_order.reshape(start.codes.shape))
