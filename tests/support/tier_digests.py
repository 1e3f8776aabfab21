"""Prints a digest of what each kernel of an ISA tier gives for fixed inputs: `tier_digests.py [TIER]`.

Tiers but the portable one agree to the bit, on whatever machine: compare two with `diff`. Inputs are exact
fractions, so that no machine's libm has a part in them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from hashlib import sha256

import numpy as np

from octavo.formats.normalise import RUNS
from octavo.formats.tensor import Encoding, Tensor
from octavo.machine.isa import choose_isa
from octavo.runtime import native
from octavo.runtime.backend import Batch, Limits
from octavo.runtime.kv_cache import KVCacheSpec, PagedKV
from octavo.runtime.kv_items import KV_CACHE_DTYPES
from octavo.runtime.ops import Tracer
from octavo.runtime.program import View

_FLOATS = {Encoding.F32: np.float32, Encoding.F16: np.float16}


def fractions(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Float32 numbers in [-4, 4), multiples of 2^-20."""
    return (rng.integers(-(1 << 22), 1 << 22, shape) * 2.0**-20).astype(np.float32)


def weight(rng: np.random.Generator, encoding: Encoding, rows: int, cols: int) -> Tensor:
    """Any codes, scaled to a sane size where a scale is a float of some bytes of a group."""
    if encoding in _FLOATS:
        return Tensor(
            (rows, cols),
            encoding,
            fractions(rng, rows, cols).astype(_FLOATS[encoding]).view(np.uint8).ravel(),
        )
    if encoding is Encoding.BF16:
        bits = (fractions(rng, rows, cols).view(np.uint32) >> 16).astype(np.uint16)
        return Tensor((rows, cols), encoding, bits.view(np.uint8).ravel())
    # All bytes below 0x38: no float of them is large, infinite or NaN.
    groups = rng.integers(0, 0x38, rows * cols // encoding.group_size * encoding.group_bytes, np.uint8)
    return Tensor((rows, cols), encoding, groups)


def run(
    isa: str,
    rows: np.ndarray,
    weights: dict[str, Tensor],
    build: Callable[[Tracer, View], View],
    kv_dtype: str = "float32",
) -> np.ndarray:
    """`build` of the rows, which are one sequence."""
    count = len(rows)
    tracer = Tracer()
    weights = {"embed": Tensor.from_array(rows), **weights}
    x = tracer.embedding("embed", *rows.shape)
    program = tracer.finish(build(tracer, x))
    limits = Limits(count, count, max_sequences=1, max_position=count, vocab_size=count)
    kv_cache = KVCacheSpec(program.cache_layers, kv_dtype)
    executable = native.NativeBackend(threads=1, isa=isa).compile(program, weights, kv_cache, limits)
    blocks = np.arange(-(-count // 16), dtype=np.int32)
    executable.allocate_kv_cache(len(blocks))
    ids, starts = np.arange(count, dtype=np.int32), np.array([0, count], np.int32)
    return np.array(executable.run(Batch(ids, ids, starts, starts[1:], blocks[None, None], ids)))


def results(isa: str) -> Iterator[tuple[str, np.ndarray]]:
    """(name, what the kernels give)."""
    for encoding in sorted(RUNS, key=lambda each: each.value):
        for count in (1, 2, 3, 4, 5, 6, 7, 8, 29):
            rng = np.random.default_rng(count)
            rows, w = fractions(rng, count, 512), weight(rng, encoding, 70, 512)
            got = run(isa, rows, {"w": w}, lambda ops, x: ops.linear(x, [("w", 70)]))
            yield f"linear {encoding.value} {count}", got
    rows = fractions(np.random.default_rng(1), 7, 200)
    gain = Tensor.from_array(rows[0])
    yield "rms_norm", run(isa, rows, {"g": gain}, lambda ops, x: ops.rms_norm(x, "g", 1e-5))
    yield (
        "silu_mul",
        run(isa, rows * 20, {}, lambda ops, x: ops.silu_mul(x.columns(0, 100), x.columns(100, 100))),
    )
    for dtype in KV_CACHE_DTYPES:
        for heads, kv_heads, dim, window in ((4, 2, 16, 0), (9, 3, 64, 0), (3, 1, 40, 37)):
            name = f"attention {dtype} {heads} {kv_heads} {dim} {window}"
            yield name, attention(isa, dtype, heads, kv_heads, dim, window)


def attention(isa: str, dtype: str, heads: int, kv_heads: int, dim: int, window: int) -> np.ndarray:
    """Of 300 tokens, which are more than a split."""
    cache = PagedKV(num_kv_heads=kv_heads, key_dim=dim, value_dim=dim, window=window)
    q, kv = heads * dim, kv_heads * dim

    def attend(ops: Tracer, x: View) -> View:
        parts = x.columns(0, q), x.columns(q, kv), x.columns(q + kv, kv)
        return ops.paged_attention(*parts, num_heads=heads, scale=0.25, cache=cache)

    rows = fractions(np.random.default_rng(heads), 300, q + 2 * kv)
    return run(isa, rows, {}, attend, dtype)


if __name__ == "__main__":
    for name, got in results(sys.argv[1] if len(sys.argv) > 1 else choose_isa()):
        assert np.isfinite(got).all(), name
        print(sha256(got.tobytes()).hexdigest()[:16], name)
