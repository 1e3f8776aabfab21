"""The native backend: the C++ executor of `csrc/`, one call a step with the GIL released."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from octavo import _native
from octavo.formats.tensor import Tensor
from octavo.machine.cpus import usable_cpus
from octavo.machine.isa import choose_isa
from octavo.runtime.backend import Batch, Limits
from octavo.runtime.kv_cache import KVCacheSpec
from octavo.runtime.native_sampler import NativeSampler
from octavo.runtime.packed_cache import PackedCache
from octavo.runtime.packed_weights import add_packed_weights
from octavo.runtime.program import Program, Rows, View
from octavo.sampling.output_rows import OutputRows, StepTokens, sample_rows


class NativeBackend:
    """Compiles Programs for this machine's processor."""

    def __init__(
        self, threads: int | None = None, isa: str | None = None, packed_cache: PackedCache | None = None
    ) -> None:
        self.threads = threads or usable_cpus()
        self.isa = isa or choose_isa()
        self._packed_cache = packed_cache

    def code_digest(self) -> str:
        """Names the kernels in use, to the bit: another build may round differently."""
        assert _native.__file__ is not None
        return f"{self.isa} {sha256(Path(_native.__file__).read_bytes()).hexdigest()}"

    def compile(
        self, program: Program, weights: Mapping[str, Tensor], kv_cache: KVCacheSpec, limits: Limits
    ) -> NativeExecutable:
        """Pack the weights and plan all memory; see `octavo.runtime.backend.Backend`."""
        max_rows = {Rows.TOKENS: limits.max_tokens, Rows.OUTPUTS: limits.max_outputs}
        kinds = list(Rows)
        native = _native.Program(self.threads, self.isa)
        for buffer in program.buffers:
            native.add_buffer(kinds.index(buffer.rows), buffer.cols, buffer.offset)
        add_packed_weights(native, program.linear_weights, weights, self._packed_cache)
        for name in program.other_weights:
            tensor = weights[name]
            if tensor.order is not None:
                tensor = Tensor.from_array(tensor.to_float32())
            data = np.ascontiguousarray(tensor.data)
            native.add_weight(name, tensor.encoding.value, tensor.rows, tensor.shape[-1], data)
        for each in program.instructions:
            native.add_instruction(
                each.op, [_view(v) for v in each.inputs], _view(each.output), each.weights, each.attributes
            )
        native.finish(
            max_rows=[max_rows[kind] for kind in kinds],
            arena_cols=[program.arena_cols[kind] for kind in kinds],
            max_position=limits.max_position,
            vocab_size=limits.vocab_size,
            result=_view(program.result),
        )
        return NativeExecutable(native, kv_cache)


class NativeExecutable:
    """A Program in the C++ executor: see `octavo.runtime.backend.Executable`."""

    def __init__(self, native: _native.Program, kv_cache: KVCacheSpec) -> None:
        self._native = native
        self._kv_cache = kv_cache
        self.sampler = NativeSampler(native.sampler())
        """Samples on the threads that run the program, so not while it runs."""

    @property
    def weight_bytes(self) -> int:
        """Memory that the packed weights take."""
        return self._native.weight_bytes

    @property
    def isa(self) -> str:
        """The ISA tier in use."""
        return self._native.isa

    def allocate_kv_cache(self, num_blocks: int) -> None:
        """Reserve the KV cache; its pages are committed when first written."""
        spec = self._kv_cache
        layers = [(each.num_kv_heads, each.key_dim, each.value_dim) for each in spec.layers]
        self._native.allocate_kv_cache(layers, spec.layers_by_group, spec.dtype, num_blocks)

    def copy_blocks(self, sources: Sequence[int], destinations: Sequence[int]) -> None:
        """Copy whole blocks, one pair after the other."""
        self._native.copy_blocks(np.array(sources, np.int32), np.array(destinations, np.int32))

    def read_blocks(self, blocks: Sequence[int]) -> NDArray[np.uint8]:
        """The bytes of each block, the layers of its group one after the other."""
        data = np.empty((len(blocks), self._kv_cache.block_bytes), np.uint8)
        self._native.read_blocks(np.array(blocks, np.int32), data)
        return data

    def write_blocks(self, blocks: Sequence[int], data: NDArray[np.uint8]) -> None:
        """Fill each block with bytes that `read_blocks` gave."""
        self._native.write_blocks(np.array(blocks, np.int32), np.ascontiguousarray(data))

    def step(self, batch: Batch, rows: OutputRows) -> StepTokens:
        """Run the model, then sample."""
        return sample_rows(self.sampler, self.run(batch), rows)

    def run(self, batch: Batch) -> NDArray[np.float32]:
        """Run the model alone; the `[R, cols]` result is valid until the next call."""
        return self._native.run(
            batch.token_ids,
            batch.positions,
            batch.query_starts,
            batch.context_lens,
            batch.block_tables,
            batch.output_rows,
        )


def _view(view: View) -> tuple[int, int, int]:
    return (view.buffer, view.start, view.cols)
