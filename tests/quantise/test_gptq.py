"""GPTQ against the procedure it stands for: round a column, then solve for the columns that are left."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from octavo.quantise.config import QuantiseConfig
from octavo.quantise.forms import Float8
from octavo.quantise.gptq import DAMPING, gptq
from octavo.quantise.scheme import scheme_of

SCHEMES = {
    "int4": scheme_of(QuantiseConfig(format="int4")),
    "int4-zeros": scheme_of(QuantiseConfig(format="int4", zero_points=True)),
    "int8": scheme_of(QuantiseConfig(format="int8")),
    "q4_1": scheme_of(QuantiseConfig(format="gguf-q4_1")),
    "fp8": scheme_of(QuantiseConfig(format="fp8")),
}


E4M3_NUMBERS = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).double().numpy()
E4M3_NUMBERS = E4M3_NUMBERS[np.isfinite(E4M3_NUMBERS)]


def correlated_inputs(tokens, cols):
    rng = np.random.default_rng(1)
    mixed = rng.standard_normal((tokens, cols)) @ rng.standard_normal((cols, cols))
    return (mixed * rng.uniform(0.1, 3, cols)).astype(np.float32)


def weights(rows, cols):
    return np.random.default_rng(2).standard_normal((rows, cols)).astype(np.float32)


def least_squares(weight, inputs, scheme):
    """Optimal brain quantisation with a fixed order: each step solves the rest by the normal equations."""
    hessian = inputs.T.astype(np.float64) @ inputs
    order = np.argsort(-np.diag(hessian), kind="stable")
    hessian += np.eye(len(hessian)) * DAMPING * np.diag(hessian).mean()
    start = scheme.round(weight, np.square(inputs).mean(axis=0))
    step = np.repeat(start.scales, start.codes.shape[2], axis=1)
    offset = np.zeros_like(step)
    if start.zeros is not None:
        offset = -step * np.repeat(start.zeros, 32, axis=1)
    if start.minimums is not None:
        offset = np.repeat(start.minimums, 32, axis=1)
    current = weight.astype(np.float64)
    for i, column in enumerate(order):
        codes = (current[:, column] - offset[:, column]) / step[:, column]
        if isinstance(scheme.form, Float8):
            codes = E4M3_NUMBERS[np.abs(codes[:, None] - E4M3_NUMBERS).argmin(axis=1)]
        else:
            codes = np.clip(np.rint(codes), scheme.low, scheme.high)
        rounded = codes * step[:, column] + offset[:, column]
        missed = rounded - current[:, column]
        current[:, column] = rounded
        left = order[i + 1 :]
        if len(left):
            # argmin over d of |(missed x_column + X_left d)|^2
            change = -np.linalg.solve(hessian[np.ix_(left, left)], np.outer(hessian[left, column], missed))
            current[:, left] += change.T
    return current


@pytest.mark.parametrize("name", SCHEMES)
def test_is_the_least_squares_solution(name):
    scheme, weight, inputs = SCHEMES[name], weights(24, 64), correlated_inputs(300, 64)
    ours, theirs = gptq(weight, inputs, scheme).values(), least_squares(weight, inputs, scheme)
    # A value that lies between two codes may be rounded either way by float32.
    assert np.isclose(ours, theirs, atol=1e-4).mean() > 0.99


@pytest.mark.parametrize("name", SCHEMES)
def test_outputs_are_nearer_than_of_the_nearest_codes(name):
    scheme, weight, inputs = SCHEMES[name], weights(40, 288), correlated_inputs(500, 288)
    expected = inputs @ weight.T

    def error(groups):
        return np.square(inputs @ groups.values().T - expected).sum()

    assert error(gptq(weight, inputs, scheme)) < 0.5 * error(scheme.round(weight, None))


def test_inputs_that_are_apart_leave_nothing_to_make_up_for():
    scheme, weight = SCHEMES["int4"], weights(8, 64)
    inputs = np.eye(64, dtype=np.float32)
    assert np.array_equal(gptq(weight, inputs, scheme).codes, scheme.round(weight, None).codes)


def test_inputs_of_zeros():
    scheme, weight = SCHEMES["int4"], weights(8, 64)
    assert np.isfinite(gptq(weight, np.zeros((10, 64), np.float32), scheme).values()).all()
