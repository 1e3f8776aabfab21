"""Every ISA tier of the native backend, op by op, against NumPy."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from octavo.formats.groups import Groups
from octavo.formats.normalise import RUNS
from octavo.formats.tensor import Encoding, Tensor
from octavo.runtime import native
from octavo.runtime.backend import Batch, KVCacheSpec, Limits
from octavo.runtime.isa import available_isas
from octavo.runtime.kv_items import KV_CACHE_DTYPES, decode, encode
from octavo.runtime.ops import Tracer
from octavo.runtime.program import View

ISAS = available_isas()
NO_KV = KVCacheSpec(1, 1, 16, "float32")
ENCODINGS = sorted(RUNS, key=lambda each: each.value)
MINIMUMS = {Encoding.Q4_1, Encoding.Q5_1, Encoding.U8_1}
VOCABULARY = 97


@pytest.fixture(params=ISAS)
def isa(request: pytest.FixtureRequest) -> str:
    return request.param


def random_tensor(rng: np.random.Generator, encoding: Encoding, n: int, k: int) -> Tensor:
    """Random bytes of the encoding, with scales of a sane size."""
    match encoding:
        case Encoding.F32:
            return Tensor.from_array(rng.standard_normal((n, k), dtype=np.float32))
        case Encoding.F16:
            data = rng.standard_normal((n, k)).astype(np.float16).reshape(-1).view(np.uint8)
        case Encoding.BF16:
            bits = rng.standard_normal((n, k), dtype=np.float32).view(np.uint32) >> 16
            data = bits.astype(np.uint16).reshape(-1).view(np.uint8)
        case _:
            blocks = n * k // encoding.group_size
            groups = rng.integers(0, 256, (blocks, encoding.group_bytes), dtype=np.uint8)
            if encoding is Encoding.F8_E4M3:
                groups[groups % 128 == 127] = 0  # no NaN
                groups[:, :4] = rng.uniform(-0.1, 0.1, (blocks, 1)).astype(np.float32).view(np.uint8)
            elif encoding is Encoding.MXFP4:
                groups[:, 0] = rng.integers(120, 128, blocks)
            else:
                halves = 2 if encoding in MINIMUMS | {Encoding.Q2_K, Encoding.Q4_K, Encoding.Q5_K} else 1
                scales = rng.uniform(-0.1, 0.1, (blocks, halves)).astype(np.float16).view(np.uint8)
                start = {Encoding.Q6_K: 208, Encoding.Q2_K: 80}.get(encoding, 0)
                groups[:, start : start + 2 * halves] = scales
            data = groups.reshape(-1)
    return Tensor((n, k), encoding, data)


def quantised(x: np.ndarray) -> np.ndarray:
    """`x` as the integer kernels see it: int8 in groups of 32, here as the values that those stand for."""
    groups = x.reshape(-1, 32)
    largest = np.abs(groups).max(axis=1, keepdims=True)
    inverse = np.divide(np.float32(127), largest, out=np.zeros_like(largest), where=largest > 0)
    return (np.rint(groups * inverse) * (largest / np.float32(127))).astype(np.float32).reshape(x.shape)


def packed_values(tensor: Tensor) -> np.ndarray:
    """The values that the kernels multiply by: those of `tensor`, its scales and minimums as float16."""
    if tensor.encoding.is_float:
        return tensor.to_float32().astype(np.float64)

    def half(numbers: np.ndarray) -> np.ndarray:
        return numbers.astype(np.float16).astype(np.float32)

    rounded = (
        Groups(each.codes, half(each.scales), minimums=None if each.minimums is None else half(each.minimums))
        for each in tensor.chunks()
    )
    return np.concatenate([each.values() for each in rounded]).astype(np.float64)


class Harness:
    """Runs a traced function on rows of an embedding, which here is how a test feeds values in."""

    def __init__(self, isa: str, rows: np.ndarray, threads: int = 2, kv_cache: KVCacheSpec = NO_KV) -> None:
        self.backend = native.NativeBackend(threads=threads, isa=isa)
        self.rows = rows
        self.kv_cache = kv_cache
        self.weights = {"embed": Tensor.from_array(rows)}

    def compile(self, build) -> native.NativeExecutable:
        tracer = Tracer()
        result = build(tracer, tracer.embedding("embed", self.rows.shape[1]))
        limits = Limits(max_tokens=len(self.rows), max_outputs=len(self.rows), max_sequences=8)
        weights = dict(self.weights)
        program = tracer.finish(result)
        return self.backend.compile(program, weights, self.kv_cache, limits)

    def run(self, build) -> np.ndarray:
        executable = self.compile(build)
        executable.allocate_kv_cache(self.blocks)
        return np.array(executable.run(whole_batch(len(self.rows))))

    @property
    def blocks(self) -> int:
        return -(-len(self.rows) // 16)


def whole_batch(tokens: int) -> Batch:
    """One sequence of `tokens` tokens from position 0, token id = row, every row an output."""
    ids = np.arange(tokens, dtype=np.int32)
    blocks = np.arange(-(-tokens // 16), dtype=np.int32)
    starts = np.array([0, tokens], np.int32)
    return Batch(ids, ids, starts, starts[1:].copy(), blocks[None, None].copy(), ids)


def with_positions(harness: Harness, build):
    """The native executor bounds positions by the rope table, so a program without rope gets an idle one."""
    count = len(harness.rows)
    table = np.concatenate([np.ones((count, 1)), np.zeros((count, 1))], axis=1).astype(np.float32)
    harness.weights["idle_rope"] = Tensor.from_array(table)

    def wrapped(ops: Tracer, x: View) -> View:
        return build(ops, ops.rope(x, "idle_rope", x.cols, 2))

    return harness.run(wrapped)


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
    got = with_positions(harness, lambda ops, x: ops.linear(x, [("w", n)], ["b"]))
    seen = x if encoding.is_float else quantised(x)
    expected = seen.astype(np.float64) @ packed_values(weight).T + bias
    np.testing.assert_allclose(got, expected, rtol=0, atol=2e-6 * k * np.abs(expected).max())


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_embedding_is_exact(encoding: Encoding) -> None:
    """Rows are decoded as NumPy does, bit for bit, whatever the kernels round."""
    tensor = random_tensor(np.random.default_rng(4), encoding, 20, 512)
    harness = Harness(ISAS[-1], tensor.to_float32())
    harness.weights["embed"] = tensor
    got = with_positions(harness, lambda ops, x: x)
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
        results.append(with_positions(harness, lambda ops, x: ops.linear(x, [("w", 70)])))
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
    got = with_positions(harness, lambda ops, x: ops.linear(x, [(name, 40) for name in parts]))
    np.testing.assert_allclose(got, np.concatenate(expected, axis=1), rtol=0, atol=1e-2)


@pytest.mark.parametrize("order", [np.full(256, 256), np.full(256, -1), np.arange(255)])
def test_orders_that_are_none_of_the_columns(order) -> None:
    program = native._native.Program(1, "portable", 1, 1)
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
    got = with_positions(harness, lambda ops, x: ops.linear(x, parts, residual=x))
    expected = x + np.concatenate(
        [
            (x if encoding.is_float else quantised(x)) @ harness.weights[name].to_float32().T
            for name, encoding in zip("abc", encodings, strict=True)
        ],
        axis=1,
    )
    np.testing.assert_allclose(got, expected, atol=1e-4)


@pytest.mark.parametrize("cols", [32, 50, 576])
def test_elementwise(isa: str, cols: int) -> None:
    rng = np.random.default_rng(cols)
    x = (rng.standard_normal((7, cols)) * 5).astype(np.float32)
    weight = rng.standard_normal(cols).astype(np.float32)
    harness = Harness(isa, x)
    harness.weights["w"] = Tensor.from_array(weight)
    norm = x / np.sqrt((x.astype(np.float64) ** 2).mean(axis=1, keepdims=True) + 1e-5) * weight
    got = with_positions(harness, lambda ops, x: ops.rms_norm(x, "w", 1e-5))
    np.testing.assert_allclose(got, norm, atol=1e-5, rtol=1e-5)
    half = cols // 2
    got = with_positions(harness, lambda ops, x: ops.silu_mul(x.columns(0, half), x.columns(half, half)))
    gate, up = x[:, :half].astype(np.float64), x[:, half : 2 * half]
    np.testing.assert_allclose(got, gate / (1 + np.exp(-gate)) * up, atol=1e-5, rtol=1e-5)
    got = with_positions(harness, lambda ops, x: ops.add(x, x))
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
    harness = Harness(isa, x, kv_cache=KVCacheSpec(1, kv_heads, head_dim, dtype))
    qkv = [heads * head_dim, kv_heads * head_dim, kv_heads * head_dim]

    def build(ops: Tracer, x: View) -> View:
        q, k = x.columns(0, qkv[0]), x.columns(qkv[0], qkv[1])
        v = x.columns(qkv[0] + qkv[1], qkv[2])
        shape = {"num_heads": heads, "num_kv_heads": kv_heads, "head_dim": head_dim}
        return ops.paged_attention(q, k, v, layer=0, scale=head_dim**-0.5, window=window, **shape)

    got = with_positions(harness, build)
    q, k, v = np.split(x, np.cumsum(qkv)[:-1], axis=1)
    k = decode(encode(k.reshape(tokens, kv_heads, -1), dtype, "keys"), dtype)
    v = decode(encode(v.reshape(tokens, kv_heads, -1), dtype, "values"), dtype)
    expected = naive_attention(q.reshape(tokens, heads, -1), k, v, head_dim**-0.5, window)
    # int16 rounds the queries and the weights as well.
    np.testing.assert_allclose(got, expected.reshape(tokens, -1), atol=3e-4 if dtype == "int16" else 2e-5)


def test_an_int16_cache_of_an_odd_head_dim_is_refused() -> None:
    executable = Harness(
        ISAS[-1], np.ones((1, 15), np.float32), kv_cache=KVCacheSpec(1, 1, 15, "int16")
    ).compile(lambda ops, x: x)
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
        shape = {"num_heads": heads, "num_kv_heads": kv_heads, "head_dim": head_dim}
        return ops.paged_attention(*parts, layer=0, scale=head_dim**-0.5, window=0, **shape)

    error = {}
    for dtype in ("int16", "float16"):
        harness = Harness(isa, x, kv_cache=KVCacheSpec(1, kv_heads, head_dim, dtype))
        error[dtype] = np.sqrt(np.mean((with_positions(harness, build) - exact) ** 2))
    assert error["int16"] < error["float16"]


def attention_program(ops: Tracer, x: View) -> View:
    """A little of everything whose order could depend on the batch."""
    qkv = ops.linear(ops.rms_norm(x, "norm", 1e-5), [("q", 96), ("k", 32), ("v", 32)])
    ops.rope(qkv.columns(0, 128), "rope", 16, 16)
    out = ops.paged_attention(
        qkv.columns(0, 96),
        qkv.columns(96, 32),
        qkv.columns(128, 32),
        layer=0,
        num_heads=6,
        num_kv_heads=2,
        head_dim=16,
        scale=0.25,
        window=0,
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
        kv_cache=KVCacheSpec(1, 2, 16, "float16"),
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


def test_steps_that_do_not_fit_are_refused() -> None:
    harness = Harness(ISAS[-1], np.ones((20, 32), np.float32))
    harness.weights["rope"] = Tensor.from_array(np.ones((20, 2), np.float32))
    executable = harness.compile(lambda ops, x: ops.rope(x, "rope", 32, 2))
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
