"""Attention of every ISA tier over every type of KV cache, against NumPy, and alone as in any batch."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.native_harness import ISAS, VOCABULARY, Harness, kv, random_tensor

from octavo.formats.tensor import Encoding, Tensor
from octavo.runtime.backend import Batch
from octavo.runtime.kv_items import KV_CACHE_DTYPES, decode, encode
from octavo.runtime.ops import Tracer
from octavo.runtime.program import View


@pytest.fixture(params=ISAS)
def isa(request: pytest.FixtureRequest) -> str:
    return request.param


def naive_attention(q, k, v, scale, window):
    """`[T, H, D]` queries over `[T, K, D]` keys and values, float64."""
    tokens, heads, _ = q.shape
    out = np.zeros_like(q, dtype=np.float64)
    for t in range(tokens):
        low = max(0, t + 1 - window) if window else 0
        for h in range(heads):
            kv = h // (heads // k.shape[1])
            scores = k[low : t + 1, kv].astype(np.float64) @ q[t, h].astype(np.float64) * scale
            p = np.exp(scores - scores.max())
            out[t, h] = (p / p.sum()) @ v[low : t + 1, kv].astype(np.float64)
    return out


@pytest.mark.parametrize("dtype", KV_CACHE_DTYPES)
@pytest.mark.parametrize(
    ("heads", "kv_heads", "head_dim", "window"),
    [(9, 3, 64, 0), (4, 4, 32, 0), (8, 2, 80, 37), (40, 2, 128, 300), (2, 1, 24, 5), (2, 1, 15, 0)],
)
def test_attention(isa: str, dtype: str, heads: int, kv_heads: int, head_dim: int, window: int) -> None:
    if dtype == "int16" and head_dim % 2:
        pytest.skip("refused: see below")
    tokens = 530
    rng = np.random.default_rng(heads)
    cols = (heads + 2 * kv_heads) * head_dim
    x = rng.standard_normal((tokens, cols), dtype=np.float32)
    harness = Harness(isa, x, kv_dtype=dtype)
    qkv = [heads * head_dim, kv_heads * head_dim, kv_heads * head_dim]

    def build(ops: Tracer, x: View) -> View:
        q, k = x.columns(0, qkv[0]), x.columns(qkv[0], qkv[1])
        v = x.columns(qkv[0] + qkv[1], qkv[2])
        cache = kv(kv_heads, head_dim, window)
        return ops.paged_attention(q, k, v, num_heads=heads, scale=head_dim**-0.5, cache=cache)

    got = harness.run(build)
    q, k, v = np.split(x, np.cumsum(qkv)[:-1], axis=1)
    k = decode(encode(k.reshape(tokens, kv_heads, -1), dtype, "keys"), dtype)
    v = decode(encode(v.reshape(tokens, kv_heads, -1), dtype, "values"), dtype)
    expected = naive_attention(q.reshape(tokens, heads, -1), k, v, head_dim**-0.5, window)
    # int16 rounds the queries and the weights as well.
    np.testing.assert_allclose(got, expected.reshape(tokens, -1), atol=3e-4 if dtype == "int16" else 2e-5)


def test_an_int16_cache_of_an_odd_head_dim_is_refused() -> None:
    harness = Harness(ISAS[-1], np.ones((1, 15), np.float32), kv_dtype="int16")
    executable = harness.compile(
        lambda ops, x: ops.paged_attention(x, x, x, num_heads=1, scale=1.0, cache=kv(1, 15))
    )
    with pytest.raises(ValueError, match="odd head_dim 15"):
        executable.allocate_kv_cache(1)


@pytest.mark.parametrize("loud", [1.0, 30.0], ids=["even", "one loud channel"])
def test_int16_attention_is_as_exact_as_float16(isa: str, loud: float) -> None:
    heads, kv_heads, head_dim, tokens = 6, 2, 64, 400
    rng = np.random.default_rng(3)
    x = rng.standard_normal((tokens, (heads + 2 * kv_heads) * head_dim), dtype=np.float32)
    sizes = [heads * head_dim, kv_heads * head_dim, kv_heads * head_dim]
    q, k, v = (part.reshape(tokens, -1, head_dim) for part in np.split(x, np.cumsum(sizes)[:-1], axis=1))
    k[:, :, 7] *= loud  # a view of x
    assert loud == 1.0 or np.abs(x).max() > 60
    exact = naive_attention(q, k, v, head_dim**-0.5, 0).reshape(tokens, -1)

    def build(ops: Tracer, x: View) -> View:
        parts = (x.columns(start, size) for start, size in zip(np.cumsum([0, *sizes]), sizes, strict=False))
        cache = kv(kv_heads, head_dim)
        return ops.paged_attention(*parts, num_heads=heads, scale=head_dim**-0.5, cache=cache)

    error = {}
    for dtype in ("int16", "float16"):
        harness = Harness(isa, x, kv_dtype=dtype)
        error[dtype] = np.sqrt(np.mean((harness.run(build) - exact) ** 2))
    assert error["int16"] < error["float16"]


def attention_program(ops: Tracer, x: View) -> View:
    """A little of everything whose order could depend on the batch."""
    qkv = ops.linear(ops.rms_norm(x, "norm", 1e-5), [("q", 96), ("k", 32), ("v", 32)])
    ops.rope(qkv.columns(0, 128), "rope", 16, 16)
    out = ops.paged_attention(
        qkv.columns(0, 96),
        qkv.columns(96, 32),
        qkv.columns(128, 32),
        num_heads=6,
        scale=0.25,
        cache=kv(2, 16),
    )
    return ops.linear(out, [("o", 64)], residual=x)


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_rows_do_not_depend_on_the_batch(data: st.DataObject) -> None:
    """Bit for bit: a token's result is the same alone, chunked anyhow, with any neighbours and threads."""
    isa = data.draw(st.sampled_from(ISAS))
    rng = np.random.default_rng(7)
    harness = Harness(
        isa,
        rng.standard_normal((VOCABULARY, 64), dtype=np.float32),
        threads=data.draw(st.integers(1, 3)),
        kv_dtype="float16",
        max_position=700,
    )
    harness.weights |= {
        "norm": Tensor.from_array(np.ones(64, np.float32)),
        "rope": Tensor.from_array(rng.standard_normal((700, 16), dtype=np.float32)),
        "q": random_tensor(rng, Encoding.Q4_1, 96, 64),
        "k": random_tensor(rng, data.draw(st.sampled_from([Encoding.Q8_0, Encoding.F8_E4M3])), 32, 64),
        "v": random_tensor(rng, Encoding.F16, 32, 64),
        "o": random_tensor(rng, Encoding.Q4_0, 64, 96),
    }
    executable = harness.compile(attention_program)
    executable.allocate_kv_cache(200)
    lengths = data.draw(st.lists(st.integers(1, 600), min_size=1, max_size=3))
    sequences = [rng.integers(0, VOCABULARY, n).astype(np.int32) for n in lengths]
    tables = rng.permutation(200).astype(np.int32)[: 45 * len(lengths)].reshape(len(lengths), -1)

    def run(parts: list[tuple[int, int, int]]) -> list[np.ndarray]:
        """Run tokens [a, b) of each sequence s together."""
        ids = np.concatenate([sequences[s][a:b] for s, a, b in parts])
        positions = np.concatenate([np.arange(a, b) for _, a, b in parts]).astype(np.int32)
        starts = np.cumsum([0] + [b - a for _, a, b in parts]).astype(np.int32)
        lens = np.array([b for *_, b in parts], np.int32)
        table = np.ascontiguousarray(tables[[s for s, *_ in parts]][None])
        result = executable.run(
            Batch(ids, positions, starts, lens, table, np.arange(len(ids), dtype=np.int32))
        )
        return np.split(result.copy(), starts[1:-1])

    alone = [np.concatenate([run([(s, a, a + 1)])[0] for a in range(n)]) for s, n in enumerate(lengths)]
    done = [0] * len(lengths)
    mixed: list[list[np.ndarray]] = [[] for _ in lengths]
    chunks = itertools.cycle(data.draw(st.lists(st.integers(1, 64), min_size=1, max_size=9)))
    while any(done[s] < n for s, n in enumerate(lengths)):
        parts, budget = [], VOCABULARY
        for s, n in enumerate(lengths):
            size = min(next(chunks), n - done[s], budget)
            if size:
                parts.append((s, done[s], done[s] + size))
                budget -= size
        for (s, _, b), rows in zip(parts, run(parts) if parts else [], strict=True):
            mixed[s].append(rows)
            done[s] = b
    for rows, expected in zip(mixed, alone, strict=True):
        np.testing.assert_array_equal(np.concatenate(rows), expected)
