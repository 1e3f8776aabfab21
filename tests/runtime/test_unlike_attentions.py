"""Attentions of unlike shapes in one Program: other heads, other widths of keys and values, other windows."""

from __future__ import annotations

import numpy as np
import pytest
from support.batches import Chunk, make_batch, run_schedule

from octavo.formats.tensor import Tensor
from octavo.machine.isa import available_isas
from octavo.runtime.backend import Limits, LogitsExecutable
from octavo.runtime.kv_cache import KVCacheSpec, PagedKV
from octavo.runtime.ops import Tracer
from octavo.runtime.program import Program
from octavo.runtime.reference import ReferenceBackend

VOCAB, HIDDEN, MAX_LEN = 50, 48, 640
SHAPES = [
    (4, PagedKV(num_kv_heads=2, key_dim=16, value_dim=16)),
    (8, PagedKV(num_kv_heads=1, key_dim=24, value_dim=24)),
    (6, PagedKV(num_kv_heads=3, key_dim=32, value_dim=8, window=37)),
    (3, PagedKV(num_kv_heads=3, key_dim=8, value_dim=40)),
]
"""(query heads, what the layer keeps)."""


def trace() -> Program:
    """One attention of each shape after the other, without rope."""
    ops = Tracer()
    x = ops.embedding("embed", VOCAB, HIDDEN)
    for number, (num_heads, cache) in enumerate(SHAPES):
        widths = [num_heads * cache.key_dim, cache.num_kv_heads * cache.key_dim]
        widths.append(cache.num_kv_heads * cache.value_dim)
        qkv = ops.linear(x, [(f"{part}{number}", width) for part, width in zip("qkv", widths, strict=True)])
        starts = np.cumsum([0, *widths])
        parts = [qkv.columns(int(start), width) for start, width in zip(starts, widths, strict=False)]
        heads = ops.paged_attention(*parts, num_heads=num_heads, scale=cache.key_dim**-0.5, cache=cache)
        x = ops.linear(heads, [(f"o{number}", HIDDEN)], residual=x)
    return ops.finish(ops.gather_rows(x))


PROGRAM = trace()
WEIGHTS = {
    name: Tensor.from_array(np.random.default_rng(len(name)).normal(0, 0.2, shape).astype(np.float32))
    for name, shape in PROGRAM.weight_shapes.items()
}


def compile_on(name: str, dtype: str, groups: tuple[tuple[int, ...], ...] = ()) -> LogitsExecutable:
    """`name` is "reference" or an ISA tier."""
    kv_cache = KVCacheSpec(PROGRAM.cache_layers, dtype, groups)
    limits = Limits(MAX_LEN, MAX_LEN, 4, MAX_LEN, VOCAB)
    if name == "reference":
        return ReferenceBackend().compile(PROGRAM, WEIGHTS, kv_cache, limits)
    native = pytest.importorskip("octavo.runtime.native", exc_type=ImportError)
    return native.NativeBackend(threads=2, isa=name).compile(PROGRAM, WEIGHTS, kv_cache, limits)


@pytest.mark.parametrize("isa", available_isas())
@pytest.mark.parametrize("dtype", ["float32", "int16", "int8"])
def test_backends_agree(isa: str, dtype: str):
    """A prompt longer than two splits of positions, a short one, chunks and single tokens."""
    sequences = [np.random.default_rng(n).integers(0, VOCAB, n).tolist() for n in (530, 60)]
    schedule = [[(0, 300), (1, 17)], [(0, 1), (1, 1)], [(0, 228), (1, 42)], [(0, 1)]]
    ours = run_schedule(compile_on(isa, dtype), sequences, schedule)
    expected = run_schedule(compile_on("reference", dtype), sequences, schedule)
    for rows, wanted in zip(ours, expected, strict=True):
        assert rows.keys() == wanted.keys()
        for position, row in rows.items():
            most = np.abs(row - wanted[position]).max() / np.ptp(wanted[position])
            # An integer of the cache may be one higher or lower, and int16 kernels round queries too.
            assert most < (1e-5 if dtype == "float32" else 1e-3), f"position {position}"


@pytest.mark.parametrize("name", ["reference", *available_isas()])
def test_rows_do_not_depend_on_the_step(name: str):
    sequences = [np.random.default_rng(n).integers(0, VOCAB, n).tolist() for n in (290, 33, 70)]
    executable = compile_on(name, "int16")
    together = run_schedule(
        executable, sequences, [[(0, 100), (1, 33)], [(0, 189), (2, 30)], [(0, 1), (2, 40)]]
    )
    for tokens, rows in zip(sequences, together, strict=True):
        (alone,) = run_schedule(executable, [tokens], [[(0, len(tokens))]])
        for position, row in rows.items():
            assert row.tobytes() == alone[position].tobytes(), f"position {position} of {len(tokens)}"


@pytest.mark.parametrize("name", ["reference", available_isas()[-1]])
@pytest.mark.parametrize("groups", [(), ((0, 1), (2,), (3,)), ((3, 0), (2, 1))], ids=str)
def test_blocks_are_copied_read_and_written(name: str, groups: tuple[tuple[int, ...], ...]):
    executable = compile_on(name, "int16", groups)
    spec = KVCacheSpec(PROGRAM.cache_layers, "int16", groups)
    layers = [16 * each.token_bytes("int16") for each in PROGRAM.cache_layers]
    assert spec.block_bytes == max(sum(layers[n] for n in group) for group in groups or ((0, 1, 2, 3),))
    executable.allocate_kv_cache(9)
    data = np.arange(2 * spec.block_bytes, dtype=np.uint64).astype(np.uint8).reshape(2, -1)
    executable.write_blocks([7, 0], data)
    executable.copy_blocks([7, 0], [3, 8])
    assert np.array_equal(executable.read_blocks([3, 8]), data)


@pytest.mark.parametrize("name", ["reference", available_isas()[-1]])
@pytest.mark.parametrize("groups", [((0, 1), (2,), (3,)), ((3, 0), (2, 1))], ids=str)
def test_groups_compute_what_one_computes(name: str, groups: tuple[tuple[int, ...], ...]):
    tokens = np.random.default_rng(5).integers(0, VOCAB, 70).tolist()
    whole, cut = compile_on(name, "int16"), compile_on(name, "int16", groups)
    whole.allocate_kv_cache(5)
    cut.allocate_kv_cache(5 * len(groups))
    expected = whole.run(make_batch([Chunk(tokens, 0, range(5), "all")])).copy()
    batch = make_batch([Chunk(tokens, 0, range(5), "all")])
    blocks = np.random.default_rng(1).permutation(5 * len(groups)).astype(np.int32)
    batch.block_tables = np.ascontiguousarray(blocks.reshape(len(groups), 1, 5))
    assert cut.run(batch).tobytes() == expected.tobytes()
