"""Runs traced functions in the native backend, on values and weights that a test chooses."""

from __future__ import annotations

import numpy as np

from octavo.formats.groups import Groups
from octavo.formats.normalise import RUNS
from octavo.formats.tensor import Encoding, Tensor
from octavo.machine.isa import available_isas
from octavo.runtime import native
from octavo.runtime.backend import Batch, Limits
from octavo.runtime.kv_cache import KVCacheSpec, PagedKV
from octavo.runtime.ops import Tracer

ISAS = available_isas()
ENCODINGS = sorted(RUNS, key=lambda each: each.value)
MINIMUMS = {Encoding.Q4_1, Encoding.Q5_1, Encoding.U8_1}
VOCABULARY = 97


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

    def __init__(
        self,
        isa: str,
        rows: np.ndarray,
        threads: int = 2,
        kv_dtype: str = "float32",
        max_position: int = 0,
    ) -> None:
        self.backend = native.NativeBackend(threads=threads, isa=isa)
        self.rows = rows
        self.kv_dtype = kv_dtype
        self.max_position = max_position
        self.weights = {"embed": Tensor.from_array(rows)}

    def compile(self, build) -> native.NativeExecutable:
        tracer = Tracer()
        result = build(tracer, tracer.embedding("embed", *self.rows.shape))
        count = len(self.rows)
        limits = Limits(count, count, 8, max_position=self.max_position or count, vocab_size=count)
        program = tracer.finish(result)
        kv_cache = KVCacheSpec(program.cache_layers, self.kv_dtype)
        return self.backend.compile(program, dict(self.weights), kv_cache, limits)

    def run(self, build) -> np.ndarray:
        """All rows as one sequence."""
        executable = self.compile(build)
        executable.allocate_kv_cache(self.blocks)
        return np.array(executable.run(whole_batch(len(self.rows))))

    @property
    def blocks(self) -> int:
        return -(-len(self.rows) // 16)


def kv(num_kv_heads: int, head_dim: int, window: int = 0) -> PagedKV:
    """What an attention with keys and values of one width keeps."""
    return PagedKV(num_kv_heads=num_kv_heads, key_dim=head_dim, value_dim=head_dim, window=window)


def whole_batch(tokens: int) -> Batch:
    """One sequence of `tokens` tokens from position 0, token id = row, every row an output."""
    ids = np.arange(tokens, dtype=np.int32)
    blocks = np.arange(-(-tokens // 16), dtype=np.int32)
    starts = np.array([0, tokens], np.int32)
    return Batch(ids, ids, starts, starts[1:].copy(), blocks[None, None].copy(), ids)
