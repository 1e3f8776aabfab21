"""The NumPy backend: what a Program means, in float32, slow and obvious.

Every other backend is tested against this one. Each buffer has an array of its own, so that nothing here
depends on the arena's plan; every op is a few lines that read like its docstring in `octavo.runtime.ops`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from octavo.formats.tensor import Tensor
from octavo.runtime import kv_items
from octavo.runtime.backend import BLOCK_SIZE, Batch, KVCacheSpec, Limits
from octavo.runtime.program import Attribute, Instruction, Program, Rows, View
from octavo.sampling.sampler import ReferenceSampler

Floats = NDArray[np.float32]
Slots = tuple[NDArray[np.int32], NDArray[np.int32]]  # block and place in it, of each token


class ReferenceBackend:
    """Interprets a Program with NumPy."""

    def compile(
        self, program: Program, weights: Mapping[str, Tensor], kv_cache: KVCacheSpec, limits: Limits
    ) -> ReferenceExecutable:
        """Dequantise the weights. Raises ValueError for an unknown op or a missing weight."""
        for each in program.instructions:
            if each.op not in OPS:
                raise ValueError(f"the reference backend has no op {each.op!r}")
        missing = [name for name in program.weight_names if name not in weights]
        if missing:
            raise ValueError(f"weight {missing[0]!r} is missing")
        return ReferenceExecutable(program, weights, kv_cache)


class ReferenceExecutable:
    """A Program with float32 weights and a KV cache of `[planes, blocks, 16, KV heads, bytes]` twice."""

    def __init__(self, program: Program, weights: Mapping[str, Tensor], kv_cache: KVCacheSpec) -> None:
        self.sampler = ReferenceSampler()
        self._program = program
        self._kv_spec = kv_cache
        # Tied embeddings are one Tensor under two names: decode it once.
        tensors = {name: weights[name] for name in program.weight_names}
        decoded = {id(tensor): tensor.to_float32() for tensor in tensors.values()}
        self.weights: Mapping[str, Floats] = {name: decoded[id(tensor)] for name, tensor in tensors.items()}
        self.weight_bytes = sum(each.nbytes for each in decoded.values())
        self.allocate_kv_cache(0)

    def allocate_kv_cache(self, num_blocks: int) -> None:
        """Make a KV cache of `num_blocks` blocks."""
        spec = self._kv_spec
        self.planes = {
            layer: (group, plane)
            for group, layers in enumerate(spec.layers_by_group)
            for plane, layer in enumerate(layers)
        }
        vector = kv_items.vector_bytes(spec.dtype, spec.head_dim)
        shape = (spec.planes, num_blocks, BLOCK_SIZE, spec.num_kv_heads, vector)
        self.keys = np.zeros(shape, np.uint8)
        self.values = np.zeros(shape, np.uint8)

    def write_kv(self, plane: int, slots: Slots, keys: Floats, values: Floats) -> None:
        """Put `[tokens, KV heads, head dim]` keys and values into slots, rounded to the cache's type."""
        self.keys[plane][slots] = kv_items.encode(keys, self._kv_spec.dtype, "keys")
        self.values[plane][slots] = kv_items.encode(values, self._kv_spec.dtype, "values")

    def read_kv(self, plane: int, slots: Slots) -> tuple[Floats, Floats]:
        """Keys and values of slots, `[tokens, KV heads, head dim]` each."""
        dtype = self._kv_spec.dtype
        return kv_items.decode(self.keys[plane][slots], dtype), kv_items.decode(
            self.values[plane][slots], dtype
        )

    def copy_blocks(self, sources: Sequence[int], destinations: Sequence[int]) -> None:
        """Copy whole blocks, one pair after the other."""
        for source, destination in zip(sources, destinations, strict=True):
            self.keys[:, destination] = self.keys[:, source]
            self.values[:, destination] = self.values[:, source]

    def read_blocks(self, blocks: Sequence[int]) -> NDArray[np.uint8]:
        """The bytes of each block: its keys, layer after layer, then its values."""
        parts = [each[:, list(blocks)].swapaxes(0, 1) for each in (self.keys, self.values)]
        return np.stack(parts, axis=1).reshape(len(blocks), -1)

    def write_blocks(self, blocks: Sequence[int], data: NDArray[np.uint8]) -> None:
        """Fill each block with bytes that `read_blocks` gave."""
        planes, _, *rest = self.keys.shape
        parts = data.reshape(len(blocks), 2, planes, *rest)
        for each, part in ((self.keys, parts[:, 0]), (self.values, parts[:, 1])):
            each[:, list(blocks)] = part.swapaxes(0, 1)

    def run(self, batch: Batch) -> Floats:
        """Run one step: float32 `[R, cols]`."""
        rows = {Rows.TOKENS: len(batch.token_ids), Rows.OUTPUTS: len(batch.output_rows)}
        buffers = [np.zeros((rows[each.rows], each.cols), np.float32) for each in self._program.buffers]

        def array(view: View) -> Floats:
            return buffers[view.buffer][:, view.start : view.start + view.cols]

        for each in self._program.instructions:
            inputs = [array(view) for view in each.inputs]
            array(each.output)[:] = OPS[each.op](self, batch, each, inputs)
        return array(self._program.result)


Op = Callable[[ReferenceExecutable, Batch, Instruction, list[Floats]], Floats]


def _embedding(run: ReferenceExecutable, batch: Batch, op: Instruction, inputs: list[Floats]) -> Floats:
    return run.weights[op.weights[0]][batch.token_ids]


def _rms_norm(run: ReferenceExecutable, batch: Batch, op: Instruction, inputs: list[Floats]) -> Floats:
    return _normalise(inputs[0], run.weights[op.weights[0]], op.attributes["eps"])


def _head_rms_norm(run: ReferenceExecutable, batch: Batch, op: Instruction, inputs: list[Floats]) -> Floats:
    heads = _heads(inputs[0], op.attributes["head_dim"])
    return _normalise(heads, run.weights[op.weights[0]], op.attributes["eps"]).reshape(inputs[0].shape)


def _linear(run: ReferenceExecutable, batch: Batch, op: Instruction, inputs: list[Floats]) -> Floats:
    num_weights = sum(name.startswith("out") for name in op.attributes)
    outputs = []
    for i, name in enumerate(op.weights[:num_weights]):
        output = inputs[0] @ run.weights[name].T
        if bias := op.attributes.get(f"bias{i}"):
            output = output + run.weights[str(bias)]
        outputs.append(output)
    joined = np.concatenate(outputs, axis=1)
    return joined + inputs[1] if len(inputs) > 1 else joined


def _rope(run: ReferenceExecutable, batch: Batch, op: Instruction, inputs: list[Floats]) -> Floats:
    x = _heads(inputs[0], op.attributes["head_dim"])
    half = int(op.attributes["rotary_dim"]) // 2
    table = run.weights[op.weights[0]][batch.positions][:, None, :]
    cosines, sines = table[..., :half], table[..., half:]
    first, second, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    rotated = [first * cosines - second * sines, second * cosines + first * sines, rest]
    return np.concatenate(rotated, axis=-1).reshape(inputs[0].shape)


def _paged_attention(run: ReferenceExecutable, batch: Batch, op: Instruction, inputs: list[Floats]) -> Floats:
    head_dim = int(op.attributes["head_dim"])
    kv_group, plane = run.planes[int(op.attributes["layer"])]
    tables = batch.block_tables[kv_group]
    window, scale = int(op.attributes["window"]), np.float32(op.attributes["scale"])
    q, k, v = (_heads(each, head_dim) for each in inputs)
    group = q.shape[1] // k.shape[1]
    queries = [slice(start, end) for start, end in pairwise(batch.query_starts)]
    for tokens, table in zip(queries, tables, strict=True):
        positions = batch.positions[tokens]
        slots = table[positions // BLOCK_SIZE], positions % BLOCK_SIZE
        run.write_kv(plane, slots, k[tokens], v[tokens])

    output = np.zeros_like(q)
    for tokens, table, context_len in zip(queries, tables, batch.context_lens, strict=True):
        positions = batch.positions[tokens]
        # What no query sees may be gone: its blocks belong to others.
        seen = np.arange(max(0, positions[0] - window + 1) if window else 0, context_len)
        slots = table[seen // BLOCK_SIZE], seen % BLOCK_SIZE
        keys, values = run.read_kv(plane, slots)  # [context, KV heads, head dim]
        visible = seen[None, :] <= positions[:, None]  # [queries, context]
        if window:
            visible &= seen[None, :] > positions[:, None] - window
        for head in range(q.shape[1]):
            scores = q[tokens, head] @ keys[:, head // group].T * scale
            output[tokens, head] = _softmax(np.where(visible, scores, -np.inf)) @ values[:, head // group]
    return output.reshape(len(output), -1)


def _silu_mul(run: ReferenceExecutable, batch: Batch, op: Instruction, inputs: list[Floats]) -> Floats:
    gate, up = inputs
    # exp of the negative magnitude alone: no overflow on either side.
    small = np.exp(-np.abs(gate))
    sigmoid: Floats = np.where(gate >= 0, np.float32(1), small) / (1 + small)
    return gate * sigmoid * up


def _add(run: ReferenceExecutable, batch: Batch, op: Instruction, inputs: list[Floats]) -> Floats:
    return inputs[0] + inputs[1]


def _gather_rows(run: ReferenceExecutable, batch: Batch, op: Instruction, inputs: list[Floats]) -> Floats:
    return inputs[0][batch.output_rows]


OPS: dict[str, Op] = {
    "embedding": _embedding,
    "rms_norm": _rms_norm,
    "head_rms_norm": _head_rms_norm,
    "linear": _linear,
    "rope": _rope,
    "paged_attention": _paged_attention,
    "silu_mul": _silu_mul,
    "add": _add,
    "gather_rows": _gather_rows,
}


def _heads(x: Floats, head_dim: Attribute) -> Floats:
    """`[T, heads * head_dim]` as `[T, heads, head_dim]`."""
    return x.reshape(len(x), x.shape[1] // int(head_dim), int(head_dim))


def _normalise(x: Floats, weight: Floats, eps: Attribute) -> Floats:
    mean_square = np.mean(np.square(x), axis=-1, keepdims=True)
    normed: Floats = x / np.sqrt(mean_square + np.float32(eps)) * weight
    return normed


def _softmax(scores: Floats) -> Floats:
    shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
    normed: Floats = shares / shares.sum(axis=-1, keepdims=True)
    return normed
