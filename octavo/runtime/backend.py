"""What a backend is: it compiles a Program with its weights into an Executable that runs steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from octavo.formats.tensor import Tensor
from octavo.runtime.kv_items import vector_bytes
from octavo.runtime.program import Program

if TYPE_CHECKING:
    from octavo.sampling.sampler import Sampler

BLOCK_SIZE = 16
"""Tokens in a KV block: an octavo sheet folds into 16 pages."""


@dataclass(slots=True)
class Batch:
    """One step's input, `S` sequences and `T` tokens; every array is int32 and C-contiguous.

    The tokens of sequence `s` are rows `query_starts[s]` to `query_starts[s + 1]`; they are its newest
    tokens, so after the step its KV cache holds `context_lens[s]` tokens, for the layers of KV group `g` at
    block `block_tables[g, s, position // 16]`, slot `position % 16`.
    """

    token_ids: NDArray[np.int32]  # [T]
    positions: NDArray[np.int32]  # [T]
    query_starts: NDArray[np.int32]  # [S + 1]
    context_lens: NDArray[np.int32]  # [S]
    block_tables: NDArray[np.int32]  # [KV groups, S, most blocks]
    output_rows: NDArray[np.int32]  # [R], ascending


@dataclass(frozen=True, slots=True)
class Limits:
    """The largest step that an Executable must be able to run."""

    max_tokens: int
    max_outputs: int
    max_sequences: int


@dataclass(frozen=True, slots=True)
class KVCacheSpec:
    """The shape of the KV cache: what one block costs follows from it.

    The layers of a KV group share a block table, and a block holds 16 tokens of one group. All blocks are
    alike, with room for the largest group, so that any group can have any block. No `groups` are one of all
    layers.
    """

    num_layers: int
    num_kv_heads: int
    head_dim: int
    dtype: str  # one of `octavo.runtime.kv_items.KV_CACHE_DTYPES`
    groups: tuple[tuple[int, ...], ...] = ()

    @property
    def layers_by_group(self) -> tuple[tuple[int, ...], ...]:
        """The layers of each group, every layer in one."""
        return self.groups or (tuple(range(self.num_layers)),)

    @property
    def planes(self) -> int:
        """Layers that a block has room for."""
        return max(map(len, self.layers_by_group))

    @property
    def block_bytes(self) -> int:
        """Bytes of a block of 16 tokens: 2 (K and V) x layers of a group x KV heads x 16 vectors."""
        vectors = 2 * self.planes * self.num_kv_heads * BLOCK_SIZE
        return vectors * vector_bytes(self.dtype, self.head_dim)


class Executable(Protocol):
    """A compiled Program: owns its packed weights, its arena and its KV cache."""

    @property
    def weight_bytes(self) -> int:
        """Memory that the packed weights take."""
        ...

    @property
    def sampler(self) -> Sampler:
        """What chooses tokens from the rows that `run` gives; not to be used while it runs."""
        ...

    def allocate_kv_cache(self, num_blocks: int) -> None:
        """Make the KV cache of `num_blocks` blocks; called once before the first `run`."""
        ...

    def copy_blocks(self, sources: Sequence[int], destinations: Sequence[int]) -> None:
        """Copy whole KV blocks, one pair after the other."""
        ...

    def read_blocks(self, blocks: Sequence[int]) -> NDArray[np.uint8]:
        """What the blocks hold, `[len(blocks), block_bytes]`, in a layout of the backend's own."""
        ...

    def write_blocks(self, blocks: Sequence[int], data: NDArray[np.uint8]) -> None:
        """Make the blocks hold what `read_blocks` gave, of this Executable or of one just like it."""
        ...

    def run(self, batch: Batch) -> NDArray[np.float32]:
        """Run one step; the result's `[R, cols]` float32 rows are valid until the next call."""
        ...


class Backend(Protocol):
    """Turns a Program into an Executable."""

    def compile(
        self, program: Program, weights: Mapping[str, Tensor], kv_cache: KVCacheSpec, limits: Limits
    ) -> Executable:
        """Pack the weights and plan memory. Raises ValueError for an op or encoding it does not have."""
        ...
