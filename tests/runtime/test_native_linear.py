"""Matrix products of every encoding on every ISA tier, against NumPy."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from support.native_harness import (
    ENCODINGS,
    ISAS,
    Harness,
    packed_values,
    quantised,
    random_tensor,
)

from octavo.formats.tensor import Encoding, Tensor
from octavo.runtime import native


@pytest.fixture(params=ISAS)
def isa(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize(
    ("rows", "n", "k"), [(1, 16, 32), (3, 40, 64), (8, 33, 96), (29, 100, 160), (70, 17, 32), (11, 40, 512)]
)
def test_linear(isa: str, encoding: Encoding, rows: int, n: int, k: int) -> None:
    if k % encoding.group_size:
        k = 256
    rng = np.random.default_rng(rows)
    x = rng.standard_normal((rows, k), dtype=np.float32)
    harness = Harness(isa, x)
    weight = harness.weights["w"] = random_tensor(rng, encoding, n, k)
    bias = rng.standard_normal(n).astype(np.float32)
    harness.weights["b"] = Tensor.from_array(bias)
    got = harness.run(lambda ops, x: ops.linear(x, [("w", n)], ["b"]))
    seen = x if encoding.is_float else quantised(x)
    expected = seen.astype(np.float64) @ packed_values(weight).T + bias
    np.testing.assert_allclose(got, expected, rtol=0, atol=2e-6 * k * np.abs(expected).max())


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_embedding_is_exact(encoding: Encoding) -> None:
    """Rows are decoded as NumPy does, bit for bit, whatever the kernels round."""
    tensor = random_tensor(np.random.default_rng(4), encoding, 20, 512)
    harness = Harness(ISAS[-1], tensor.to_float32())
    harness.weights["embed"] = tensor
    got = harness.run(lambda ops, x: x)
    np.testing.assert_array_equal(got, tensor.to_float32())


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_tiers_agree(encoding: Encoding) -> None:
    """Bit for bit: integer sums are exact, and the rest has one order. Portable code rounds products too."""
    rng = np.random.default_rng(6)
    x, weight = rng.standard_normal((13, 512), dtype=np.float32), random_tensor(rng, encoding, 70, 512)
    results = []
    for isa in ISAS:
        harness = Harness(isa, x)
        harness.weights["w"] = weight
        results.append(harness.run(lambda ops, x: ops.linear(x, [("w", 70)])))
    np.testing.assert_allclose(results[0], results[-1], rtol=0, atol=1e-5 * np.abs(results[-1]).max())
    for each in results[2:]:
        np.testing.assert_array_equal(each, results[1])


def test_linear_with_columns_in_another_order(isa: str) -> None:
    """Parts that share an order, that have another, and that have none, floats among them."""
    rng = np.random.default_rng(8)
    x = rng.standard_normal((13, 256), dtype=np.float32)
    harness = Harness(isa, x)
    one, other = (rng.permutation(256).astype(np.int32) for _ in range(2))
    parts = {
        "a": (Encoding.Q4_0, one),
        "b": (Encoding.Q8_0, None),
        "c": (Encoding.Q4_1, one.copy()),
        "d": (Encoding.U8_1, other),
        "e": (Encoding.F16, None),
    }
    expected = []
    for name, (encoding, order) in parts.items():
        tensor = replace(random_tensor(rng, encoding, 40, 256), order=order)
        harness.weights[name] = tensor
        seen = x if encoding.is_float else quantised(x if order is None else x[:, order])
        expected.append(seen.astype(np.float64) @ packed_values(tensor).T)
        if order is not None:
            assert np.array_equal(tensor.to_float32()[:, order], replace(tensor, order=None).to_float32())
    got = harness.run(lambda ops, x: ops.linear(x, [(name, 40) for name in parts]))
    np.testing.assert_allclose(got, np.concatenate(expected, axis=1), rtol=0, atol=1e-2)


@pytest.mark.parametrize("order", [np.full(256, 256), np.full(256, -1), np.arange(255)])
def test_orders_that_are_none_of_the_columns(order) -> None:
    program = native._native.Program(1, "portable")
    panels = np.zeros(native._native.panel_bytes("Q4_0", 256), np.uint8)
    with pytest.raises(ValueError, match="an order that is none of its columns"):
        program.add_packed("w", "Q4_0", 16, 256, panels, order.astype(np.int32))


def test_linear_parts_of_different_encodings_and_residual(isa: str) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((5, 64), dtype=np.float32)
    harness = Harness(isa, x)
    encodings = (Encoding.Q4_1, Encoding.F32, Encoding.Q8_0)
    widths = (24, 8, 32)
    for name, encoding, n in zip("abc", encodings, widths, strict=True):
        harness.weights[name] = random_tensor(rng, encoding, n, 64)
    parts = list(zip("abc", widths, strict=True))
    got = harness.run(lambda ops, x: ops.linear(x, parts, residual=x))
    expected = x + np.concatenate(
        [
            (x if encoding.is_float else quantised(x)) @ harness.weights[name].to_float32().T
            for name, encoding in zip("abc", encodings, strict=True)
        ],
        axis=1,
    )
    np.testing.assert_allclose(got, expected, atol=1e-4)
