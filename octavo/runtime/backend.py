"""What a backend is: it compiles a Program with its weights into an Executable that runs steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from octavo.formats.tensor import Tensor
from octavo.runtime.kv_cache import KVCacheSpec
from octavo.runtime.program import Program

if TYPE_CHECKING:
    from octavo.sampling.output_rows import OutputRows, StepTokens


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
    """The largest step that an Executable must be able to run, and which tokens and positions it may have."""

    max_tokens: int
    max_outputs: int
    max_sequences: int
    max_position: int  # most tokens of a sequence: its positions are below this
    vocab_size: int  # token ids are below this


class Executable(Protocol):
    """A compiled Program: owns its packed weights, its arena, its KV cache and its sampler."""

    @property
    def weight_bytes(self) -> int:
        """Memory that the packed weights take."""
        ...

    def allocate_kv_cache(self, num_blocks: int) -> None:
        """Make the KV cache of `num_blocks` blocks; called once before the first step."""
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

    def step(self, batch: Batch, rows: OutputRows) -> StepTokens:
        """Run the model on a batch and choose tokens from its logits, which stay where they are.

        `rows` says what each of the batch's output rows is for. The sampling states in it know their new
        token afterwards.
        """
        ...


class LogitsExecutable(Executable, Protocol):
    """One that can also give its logits: for tests and benchmarks, which compare them.

    An engine never asks for them. A row has as many as the vocabulary has tokens: too much to bring to the
    host from a device in every step.
    """

    def run(self, batch: Batch) -> NDArray[np.float32]:
        """Run the model alone; the result's `[R, cols]` float32 rows are valid until the next call."""
        ...


class Backend(Protocol):
    """Turns a Program into an Executable."""

    def compile(
        self, program: Program, weights: Mapping[str, Tensor], kv_cache: KVCacheSpec, limits: Limits
    ) -> Executable:
        """Pack the weights and plan memory. Raises ValueError for an op or encoding it does not have."""
        ...
