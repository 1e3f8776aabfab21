"""Each op of the reference backend against PyTorch, and its KV cache against a sequence run at once."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from support.batches import Chunk, make_batch, run_schedule
from torch.nn import functional

from octavo.formats.tensor import Tensor
from octavo.runtime.backend import Limits
from octavo.runtime.kv_cache import KVCacheSpec, PagedKV
from octavo.runtime.kv_items import decode, encode
from octavo.runtime.ops import Tracer
from octavo.runtime.program import Instruction, Program, View
from octavo.runtime.reference import ReferenceBackend, ReferenceExecutable

RNG = np.random.default_rng(0)
ROWS = 19
LIMITS = Limits(max_tokens=64, max_outputs=64, max_sequences=4, max_position=64, vocab_size=10)


def random(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def compile_program(
    program: Program, weights: dict[str, np.ndarray], kv_dtype: str = "float32"
) -> ReferenceExecutable:
    tensors = {name: Tensor.from_array(each) for name, each in weights.items()}
    kv_cache = KVCacheSpec(program.cache_layers, kv_dtype)
    return ReferenceBackend().compile(program, tensors, kv_cache, LIMITS)


def run_op(x: np.ndarray, build: Callable[[Tracer, View], View], **weights: np.ndarray) -> np.ndarray:
    """What `build` computes from the rows `x`, which come in as an embedding of tokens 0, 1, 2, ..."""
    ops = Tracer()
    program = ops.finish(build(ops, ops.embedding("embed", *x.shape)))
    executable = compile_program(program, {"embed": x, **weights})
    executable.allocate_kv_cache(4)
    return executable.run(make_batch([Chunk(range(len(x)), 0, [0, 1], "all")]))


def assert_near(ours: np.ndarray, theirs: torch.Tensor, tolerance: float = 2e-6) -> None:
    assert ours.dtype == np.float32
    assert np.allclose(ours, theirs.numpy(), rtol=tolerance, atol=tolerance)


def test_embedding_gathers_rows():
    table, ops = random(10, 6), Tracer()
    executable = compile_program(ops.finish(ops.embedding("embed", 10, 6)), {"embed": table})
    rows = executable.run(make_batch([Chunk([7, 0, 7], 0, [0], "all")]))
    assert np.array_equal(rows, table[[7, 0, 7]])


def test_rms_norm():
    x, weight = random(ROWS, 24), random(24)
    ours = run_op(x, lambda ops, x: ops.rms_norm(x, "w", 1e-3), w=weight)
    assert_near(ours, functional.rms_norm(torch.tensor(x), (24,), torch.tensor(weight), 1e-3))


def test_head_rms_norm_of_some_columns_in_place():
    x, weight = random(ROWS, 40), random(8)

    def build(ops: Tracer, x: View) -> View:
        ops.head_rms_norm(x.columns(8, 16), "w", 8, 1e-5)
        return x

    ours = run_op(x, build, w=weight)
    heads = torch.tensor(x[:, 8:24].reshape(ROWS, 2, 8))
    expected = functional.rms_norm(heads, (8,), torch.tensor(weight), 1e-5).reshape(ROWS, 16)
    assert_near(ours[:, 8:24], expected)
    assert np.array_equal(ours[:, :8], x[:, :8])
    assert np.array_equal(ours[:, 24:], x[:, 24:])


def test_linear_joins_weights_with_biases_and_residual():
    x, a, b, bias, residual = random(ROWS, 12), random(5, 12), random(3, 12), random(3), random(8, 12)

    def build(ops: Tracer, x: View) -> View:
        added = ops.linear(x, [("r", 8)])
        return ops.linear(x, [("a", 5), ("b", 3)], [None, "bias"], residual=added)

    ours = run_op(x, build, a=a, b=b, bias=bias, r=residual)
    rows = torch.tensor(x)
    expected = torch.cat([rows @ torch.tensor(a).T, rows @ torch.tensor(b).T + torch.tensor(bias)], dim=1)
    assert_near(ours, expected + rows @ torch.tensor(residual).T, 1e-5)


@pytest.mark.parametrize("rotary_dim", [8, 6])
def test_rope_turns_pairs_by_their_angle(rotary_dim):
    """As multiplication of complex numbers; columns past the rotary ones stay."""
    x, half = random(ROWS, 16), rotary_dim // 2
    angles = RNG.uniform(0, 6, (ROWS, half))
    table = np.concatenate([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    ours = run_op(x, lambda ops, x: ops.rope(x, "rope", 8, rotary_dim), rope=table).reshape(ROWS, 2, 8)
    heads = x.reshape(ROWS, 2, 8)
    turned = (heads[..., :half] + 1j * heads[..., half:rotary_dim]) * np.exp(1j * angles)[:, None]
    assert np.allclose(ours[..., :half], turned.real, atol=1e-6)
    assert np.allclose(ours[..., half:rotary_dim], turned.imag, atol=1e-6)
    assert np.array_equal(ours[..., rotary_dim:], heads[..., rotary_dim:])


def test_silu_mul_add_and_extremes():
    x = np.concatenate([random(ROWS - 1, 16), np.full((1, 16), -200, np.float32)]) * 5

    def build(ops: Tracer, x: View) -> View:
        return ops.add(ops.silu_mul(x.columns(0, 8), x.columns(8, 8)), x.columns(4, 8))

    rows = torch.tensor(x)
    with np.errstate(over="raise"):
        ours = run_op(x, build)
    assert_near(ours, functional.silu(rows[:, :8]) * rows[:, 8:] + rows[:, 4:12])


def test_gather_rows_takes_those_that_want_logits():
    x, ops = random(9, 4), Tracer()
    program = ops.finish(ops.gather_rows(ops.embedding("embed", 9, 4)))
    executable = compile_program(program, {"embed": x})
    chunks = [Chunk([0, 1, 2], 0, [0]), Chunk([3, 4], 0, [1], "none"), Chunk([5, 6, 7], 1, [2], "all")]
    assert np.array_equal(executable.run(make_batch(chunks)), x[[2, 6, 7]])
    assert executable.run(make_batch(chunks[1:2])).shape == (0, 4)


HEADS, KV_HEADS, HEAD_DIM = 6, 2, 8


def attention_program(window: int) -> Program:
    """q, k and v of a token are its embedding."""
    ops, q_cols, kv_cols = Tracer(), HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM
    qkv = ops.embedding("embed", 50, q_cols + 2 * kv_cols)
    attended = ops.paged_attention(
        qkv.columns(0, q_cols),
        qkv.columns(q_cols, kv_cols),
        qkv.columns(q_cols + kv_cols, kv_cols),
        num_heads=HEADS,
        scale=0.3,
        cache=PagedKV(num_kv_heads=KV_HEADS, key_dim=HEAD_DIM, value_dim=HEAD_DIM, window=window),
    )
    return ops.finish(ops.gather_rows(attended))


def torch_attention(rows: np.ndarray, window: int) -> torch.Tensor:
    q, k, v = (
        torch.tensor(each).reshape(len(rows), -1, HEAD_DIM).transpose(0, 1)
        for each in np.split(rows, [HEADS * HEAD_DIM, (HEADS + KV_HEADS) * HEAD_DIM], axis=1)
    )
    distance = torch.arange(len(rows))[:, None] - torch.arange(len(rows))[None]
    mask = (distance >= 0) & (distance < (window or len(rows)))
    attended = functional.scaled_dot_product_attention(q, k, v, mask, scale=0.3, enable_gqa=True)
    return attended.transpose(0, 1).reshape(len(rows), -1)


@pytest.mark.parametrize("window", [0, 1, 17])
def test_paged_attention_over_chunks_and_sequences(window):
    table = random(50, (HEADS + 2 * KV_HEADS) * HEAD_DIM)
    executable = compile_program(attention_program(window), {"embed": table})
    sequences = [RNG.integers(0, 50, length).tolist() for length in (40, 33)]
    schedule = [[(0, 15), (1, 16)], [(0, 1), (1, 1)], [(0, 23), (1, 16)], [(0, 1)]]
    for tokens, rows in zip(sequences, run_schedule(executable, sequences, schedule), strict=True):
        expected = torch_attention(table[tokens], window)
        assert sorted(rows)[-1] == len(tokens) - 1
        for position, row in rows.items():
            assert_near(row, expected[position])


def test_sequences_may_share_blocks():
    """Two sequences with a common first block, written by one of them in the same step."""
    table = random(50, (HEADS + 2 * KV_HEADS) * HEAD_DIM)
    executable = compile_program(attention_program(0), {"embed": table})
    executable.allocate_kv_cache(4)
    prefix = list(range(16))
    rows = executable.run(make_batch([Chunk([*prefix, 20, 21], 16, [3, 0]), Chunk([*prefix, 22], 0, [3, 1])]))
    assert_near(rows[0], torch_attention(table[[*prefix, 20, 21]], 0)[-1])
    assert_near(rows[1], torch_attention(table[[*prefix, 22]], 0)[-1])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "int8", "fp8"])
def test_a_narrow_cache_rounds_keys_and_values(dtype):
    table = random(50, (HEADS + 2 * KV_HEADS) * HEAD_DIM)
    rounded, q_cols = table.copy(), HEADS * HEAD_DIM
    vectors = table[:, q_cols:].reshape(50, -1, HEAD_DIM)
    rounded[:, q_cols:] = decode(encode(vectors, dtype), dtype).reshape(50, -1)
    executable = compile_program(attention_program(0), {"embed": table}, dtype)
    executable.allocate_kv_cache(2)
    rows = executable.run(make_batch([Chunk(range(20), 0, [1, 0], "all")]))
    assert_near(rows, torch_attention(rounded[:20], 0))
    assert not np.allclose(rows, torch_attention(table[:20], 0).numpy(), rtol=2e-6, atol=2e-6)
    layers = attention_program(0).cache_layers
    assert executable.read_blocks([0, 1]).nbytes == 2 * KVCacheSpec(layers, dtype).block_bytes


def test_an_unknown_op_is_refused():
    program = trace_embedding()
    strange = Instruction("softplus", (program.result,), program.result)
    program = Program((*program.instructions, strange), program.buffers, program.arena_cols, program.result)
    with pytest.raises(ValueError, match="no op 'softplus'"):
        compile_program(program, {"embed": random(3, 4)})


def test_a_missing_weight_is_named():
    with pytest.raises(ValueError, match="weight 'embed' is missing"):
        compile_program(trace_embedding(), {})


def test_weight_bytes_count_a_tied_weight_once():
    ops, tied = Tracer(), Tensor.from_array(random(10, 4))
    program = ops.finish(ops.linear(ops.embedding("embed", 10, 4), [("head", 10)]))
    kv_cache = KVCacheSpec((), "float32")
    executable = ReferenceBackend().compile(program, {"embed": tied, "head": tied}, kv_cache, LIMITS)
    assert executable.weight_bytes == 160


def trace_embedding() -> Program:
    ops = Tracer()
    return ops.finish(ops.embedding("embed", 3, 4))
