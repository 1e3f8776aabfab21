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
from octavo.runtime.backend import Batch, Limits
from octavo.runtime.kv_cache import BLOCK_SIZE, KVCacheSpec
from octavo.runtime.program import Attribute, Instruction, Program, Rows, View
from octavo.sampling.output_rows import OutputRows, StepTokens, sample_rows
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
    """A Program with float32 weights and a KV cache of `[blocks, block bytes]`."""

    def __init__(self, program: Program, weights: Mapping[str, Tensor], kv_cache: KVCacheSpec) -> None:
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
        self.cache = np.zeros((num_blocks, spec.block_bytes), np.uint8)
        self.layers = {
            layer: CachedLayer(self.cache, spec, group, layers, layer)
            for group, layers in enumerate(spec.layers_by_group)
            for layer in layers
        }

    def copy_blocks(self, sources: Sequence[int], destinations: Sequence[int]) -> None:
        """Copy whole blocks, one pair after the other."""
        for source, destination in zip(sources, destinations, strict=True):
            self.cache[destination] = self.cache[source]

    def read_blocks(self, blocks: Sequence[int]) -> NDArray[np.uint8]:
        """The bytes of each block, the layers of its group one after the other."""
        return self.cache[list(blocks)]

    def write_blocks(self, blocks: Sequence[int], data: NDArray[np.uint8]) -> None:
        """Fill each block with bytes that `read_blocks` gave."""
        self.cache[list(blocks)] = data

    def step(self, batch: Batch, rows: OutputRows) -> StepTokens:
        """Run the model, then sample."""
        return sample_rows(ReferenceSampler(), self.run(batch), rows)

    def run(self, batch: Batch) -> Floats:
        """Run the model alone: float32 `[R, cols]`."""
        rows = {Rows.TOKENS: len(batch.token_ids), Rows.OUTPUTS: len(batch.output_rows)}
        buffers = [np.zeros((rows[each.rows], each.cols), np.float32) for each in self._program.buffers]

        def array(view: View) -> Floats:
            return buffers[view.buffer][:, view.start : view.start + view.cols]

        for each in self._program.instructions:
            inputs = [array(view) for view in each.inputs]
            array(each.output)[:] = OPS[each.op](self, batch, each, inputs)
        return array(self._program.result)


class CachedLayer:
    """The part of every block that one layer has: `[blocks, 16, KV heads, key bytes + value bytes]`."""

    def __init__(
        self, cache: NDArray[np.uint8], spec: KVCacheSpec, group: int, layers: tuple[int, ...], layer: int
    ) -> None:
        """`layers` are those of KV group `group`, which lie one after the other in a block."""
        own = spec.layers[layer]
        before = layers[: layers.index(layer)]
        start = BLOCK_SIZE * sum(spec.layers[each].token_bytes(spec.dtype) for each in before)
        size = BLOCK_SIZE * own.token_bytes(spec.dtype)
        self.group = group
        self._dtype = spec.dtype
        self._key_bytes = kv_items.vector_bytes(spec.dtype, own.key_dim)
        shape = (len(cache), BLOCK_SIZE, own.num_kv_heads, -1)
        self._part = cache[:, start : start + size].reshape(shape) if len(cache) else cache

    def write(self, slots: Slots, keys: Floats, values: Floats) -> None:
        """Put `[tokens, KV heads, dim]` keys and values into slots, rounded to the cache's type."""
        self._part[*slots, :, : self._key_bytes] = kv_items.encode(keys, self._dtype, "keys")
        self._part[*slots, :, self._key_bytes :] = kv_items.encode(values, self._dtype, "values")

    def read(self, slots: Slots) -> tuple[Floats, Floats]:
        """Keys and values of slots, `[tokens, KV heads, dim]` each."""
        part = self._part[slots]
        keys, values = part[..., : self._key_bytes], part[..., self._key_bytes :]
        return kv_items.decode(keys, self._dtype), kv_items.decode(values, self._dtype)


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
    key_dim, value_dim = op.attributes["head_dim"], op.attributes["value_dim"]
    layer = run.layers[int(op.attributes["layer"])]
    tables = batch.block_tables[layer.group]
    window, scale = int(op.attributes["window"]), np.float32(op.attributes["scale"])
    q, k, v = _heads(inputs[0], key_dim), _heads(inputs[1], key_dim), _heads(inputs[2], value_dim)
    group = q.shape[1] // k.shape[1]
    queries = [slice(start, end) for start, end in pairwise(batch.query_starts)]
    for tokens, table in zip(queries, tables, strict=True):
        positions = batch.positions[tokens]
        slots = table[positions // BLOCK_SIZE], positions % BLOCK_SIZE
        layer.write(slots, k[tokens], v[tokens])

    output = np.zeros((*q.shape[:2], int(value_dim)), np.float32)
    for tokens, table, context_len in zip(queries, tables, batch.context_lens, strict=True):
        positions = batch.positions[tokens]
        # What no query sees may be gone: its blocks belong to others.
        seen = np.arange(max(0, positions[0] - window + 1) if window else 0, context_len)
        slots = table[seen // BLOCK_SIZE], seen % BLOCK_SIZE
        keys, values = layer.read(slots)  # [context, KV heads, head dim]
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
