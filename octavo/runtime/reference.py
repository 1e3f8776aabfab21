"""The NumPy backend: what a Program means, in float32, slow and obvious.

Every other backend is tested against this one. Each buffer has an array of its own, so that nothing here
depends on the arena's plan; the ops are the NumPy functions of `octavo.runtime.ops`. A token's row has the
same bits whatever else is in the step: sums have the order of `octavo.runtime.fixed_order`, and those over
positions begin at position 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from octavo.formats.tensor import Tensor
from octavo.runtime import fixed_order, kv_items
from octavo.runtime.backend import Batch, Limits
from octavo.runtime.kv_cache import BLOCK_SIZE, KVCacheSpec
from octavo.runtime.ops import OPS
from octavo.runtime.ops.opdef import Floats, Slots
from octavo.runtime.program import Program, Rows, View
from octavo.sampling.output_rows import OutputRows, StepTokens, sample_rows
from octavo.sampling.sampler import ReferenceSampler


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
        # Column by column: `product` takes matrices transposed.
        decoded = {id(tensor): np.asfortranarray(tensor.to_float32()) for tensor in tensors.values()}
        self.weights: Mapping[str, Floats] = {name: decoded[id(tensor)] for name, tensor in tensors.items()}
        self.weight_bytes = sum(each.nbytes for each in decoded.values())
        self.allocate_kv_cache(0)

    @staticmethod
    def product(rows: Floats, matrix: Floats) -> Floats:
        """`rows @ matrix`."""
        return fixed_order.product(rows, matrix)

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
            array(each.output)[:] = OPS[each.op].reference(self, batch, each, inputs)
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
