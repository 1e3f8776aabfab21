"""Every ISA tier of the native backend, op by op, against NumPy."""

from __future__ import annotations

import numpy as np
import pytest
from support.native_harness import ISAS, Harness, whole_batch

from octavo.formats.tensor import Tensor
from octavo.runtime import native


@pytest.fixture(params=ISAS)
def isa(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.mark.parametrize("cols", [32, 50, 576])
def test_elementwise(isa: str, cols: int) -> None:
    rng = np.random.default_rng(cols)
    x = (rng.standard_normal((7, cols)) * 5).astype(np.float32)
    weight = rng.standard_normal(cols).astype(np.float32)
    harness = Harness(isa, x)
    harness.weights["w"] = Tensor.from_array(weight)
    norm = x / np.sqrt((x.astype(np.float64) ** 2).mean(axis=1, keepdims=True) + 1e-5) * weight
    got = harness.run(lambda ops, x: ops.rms_norm(x, "w", 1e-5))
    np.testing.assert_allclose(got, norm, atol=1e-5, rtol=1e-5)
    half = cols // 2
    got = harness.run(lambda ops, x: ops.silu_mul(x.columns(0, half), x.columns(half, half)))
    gate, up = x[:, :half].astype(np.float64), x[:, half : 2 * half]
    np.testing.assert_allclose(got, gate / (1 + np.exp(-gate)) * up, atol=1e-5, rtol=1e-5)
    got = harness.run(lambda ops, x: ops.add(x, x))
    np.testing.assert_array_equal(got, x + x)


def test_rope_and_head_norm(isa: str) -> None:
    rng = np.random.default_rng(1)
    x = rng.standard_normal((9, 3 * 48), dtype=np.float32)
    table = rng.standard_normal((9, 40), dtype=np.float32)
    weight = rng.standard_normal(48).astype(np.float32)
    harness = Harness(isa, x)
    harness.weights |= {"rope": Tensor.from_array(table), "w": Tensor.from_array(weight)}
    got = harness.run(lambda ops, x: ops.rope(ops.head_rms_norm(x, "w", 48, 1e-6), "rope", 48, 40))
    heads = x.reshape(9, 3, 48).astype(np.float64)
    heads = heads / np.sqrt((heads**2).mean(axis=2, keepdims=True) + 1e-6) * weight
    c, s = table[:, None, :20], table[:, None, 20:]
    a, b = heads[..., :20].copy(), heads[..., 20:40].copy()
    heads[..., :20], heads[..., 20:40] = a * c - b * s, b * c + a * s
    np.testing.assert_allclose(got, heads.reshape(9, -1), atol=1e-5)


def test_tables_that_do_not_fit_are_refused() -> None:
    harness = Harness(ISAS[-1], np.ones((20, 32), np.float32), max_position=21)
    harness.weights["rope"] = Tensor.from_array(np.ones((20, 2), np.float32))
    with pytest.raises(ValueError, match="rope has 20 rows, fewer than the 21 positions"):
        harness.compile(lambda ops, x: ops.rope(x, "rope", 32, 2))
    harness.weights["embed"] = Tensor.from_array(np.ones((19, 32), np.float32))
    with pytest.raises(ValueError, match="embed has 19 rows, fewer than the 20 tokens"):
        harness.compile(lambda ops, x: x)


def test_a_larger_table_than_the_vocabulary() -> None:
    harness = Harness(ISAS[-1], np.ones((20, 32), np.float32))
    harness.weights["embed"] = Tensor.from_array(np.ones((64, 32), np.float32))
    executable = harness.compile(lambda ops, x: x)
    executable.allocate_kv_cache(2)
    batch = whole_batch(20)
    assert executable.run(batch).shape == (20, 32)
    batch.token_ids = np.full(20, 20, np.int32)
    with pytest.raises(ValueError, match="vocabulary"):
        executable.run(batch)


def test_steps_that_do_not_fit_are_refused() -> None:
    """Without rope as well: no op is needed to know the positions."""
    harness = Harness(ISAS[-1], np.ones((20, 32), np.float32))
    executable = harness.compile(lambda ops, x: x)
    executable.allocate_kv_cache(2)

    def broken(**changes):
        batch = whole_batch(20)
        for name, value in changes.items():
            setattr(batch, name, np.asarray(value, np.int32))
        return executable.run(batch)

    assert broken().shape == (20, 32)
    for changes, reason in [
        ({"token_ids": np.full(20, 20)}, "vocabulary"),
        ({"token_ids": np.full(20, -1)}, "vocabulary"),
        ({"positions": np.arange(1, 21)}, "positions"),
        ({"context_lens": [40]}, "positions"),
        ({"block_tables": [[[0]]]}, "block table"),
        ({"block_tables": [[[0, 2]]]}, "block id"),
        ({"output_rows": [20]}, "output row"),
        ({"query_starts": [0, 19]}, "query_starts"),
    ]:
        with pytest.raises(ValueError, match=reason):
            broken(**changes)


def test_isa_can_be_forced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OCTAVO_ISA", "portable")
    assert native.NativeBackend().isa == "portable"
    monkeypatch.setenv("OCTAVO_ISA", "sse9")
    with pytest.raises(ValueError, match="OCTAVO_ISA"):
        native.NativeBackend()
