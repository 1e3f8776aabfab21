"""A deterministic stand-in for a model: logits are a hash of what its KV cache says came before."""

from __future__ import annotations

from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from octavo.runtime.backend import Batch, Limits
from octavo.runtime.kv_cache import BLOCK_SIZE
from octavo.sampling.output_rows import OutputRows, StepTokens, sample_rows
from octavo.sampling.sampler import ReferenceSampler

UNWRITTEN = -1


def hashed_logits(token_ids: NDArray[np.int32], positions: NDArray[np.int32], vocab_size: int):
    """The `[V]` logits after a prefix: float32, a pure function of its tokens and their positions."""
    content = np.stack([token_ids, positions]).astype(np.int32).tobytes()
    key = int.from_bytes(blake2b(content, digest_size=16).digest(), "little")
    return 3 * np.random.Generator(np.random.Philox(key=key)).standard_normal(vocab_size, dtype=np.float32)


class HashExecutable:
    """An Executable whose keys and values are the tokens themselves with their positions.

    Logits are computed from what is read back through the block tables, so a wrong table, slot, position
    or shared block gives other tokens. Each KV group has them in blocks of its own. Raises AssertionError
    for a batch that breaks the contract.
    """

    weight_bytes = 0

    def __init__(self, vocab_size: int, limits: Limits, windows: tuple[int, ...] = (0,)) -> None:
        """A group with a window has only so many tokens that count."""
        self._windows = windows
        self._vocab_size = vocab_size
        self._limits = limits
        self._slots = np.zeros((0, 2), dtype=np.int32)
        self.num_steps = 0

    def allocate_kv_cache(self, num_blocks: int) -> None:
        self._slots = np.full((num_blocks * BLOCK_SIZE, 2), UNWRITTEN, dtype=np.int32)

    def copy_blocks(self, sources: list[int], destinations: list[int]) -> None:
        blocks = self._blocks()
        for source, destination in zip(sources, destinations, strict=True):
            blocks[destination] = blocks[source]

    def read_blocks(self, blocks: list[int]) -> NDArray[np.uint8]:
        return self._blocks()[list(blocks)].reshape(len(blocks), -1).view(np.uint8)

    def write_blocks(self, blocks: list[int], data: NDArray[np.uint8]) -> None:
        self._blocks()[list(blocks)] = data.view(np.int32).reshape(len(blocks), BLOCK_SIZE, 2)

    def _blocks(self) -> NDArray[np.int32]:
        return self._slots.reshape(-1, BLOCK_SIZE, 2)

    def step(self, batch: Batch, rows: OutputRows) -> StepTokens:
        return sample_rows(ReferenceSampler(), self.run(batch), rows)

    def run(self, batch: Batch) -> NDArray[np.float32]:
        self._check(batch)
        self.num_steps += 1
        sequence_of = np.repeat(np.arange(len(batch.context_lens)), np.diff(batch.query_starts))
        for group, tables in enumerate(batch.block_tables):
            blocks = tables[sequence_of, batch.positions // BLOCK_SIZE]
            self._slots[blocks * BLOCK_SIZE + batch.positions % BLOCK_SIZE] = np.stack(
                [batch.token_ids + group * self._vocab_size, batch.positions], axis=1
            )
        logits = np.empty((len(batch.output_rows), self._vocab_size), dtype=np.float32)
        for output, row in enumerate(batch.output_rows):
            end = batch.positions[row] + 1
            read = np.concatenate(
                [
                    self._read(table, max(0, end - window) if window else 0, end)
                    for window, table in zip(
                        self._windows, batch.block_tables[:, sequence_of[row]], strict=True
                    )
                ]
            )
            logits[output] = hashed_logits(read[:, 0], read[:, 1], self._vocab_size)
        return logits

    def _read(self, table: NDArray[np.int32], start: int, end: int) -> NDArray[np.int32]:
        positions = np.arange(start, end)
        return self._slots[table[positions // BLOCK_SIZE] * BLOCK_SIZE + positions % BLOCK_SIZE]

    def _check(self, batch: Batch) -> None:
        num_seqs, num_tokens = len(batch.context_lens), len(batch.token_ids)
        assert 1 <= num_seqs <= self._limits.max_sequences
        assert num_seqs <= num_tokens <= self._limits.max_tokens
        assert len(batch.output_rows) <= self._limits.max_outputs
        assert batch.query_starts[0] == 0
        assert batch.query_starts[-1] == num_tokens == len(batch.positions)
        assert len(batch.query_starts) == num_seqs + 1 == batch.block_tables.shape[1] + 1
        assert (np.diff(batch.query_starts) > 0).all()
        assert (np.diff(batch.output_rows) > 0).all()
        assert batch.block_tables.shape[2] * BLOCK_SIZE >= batch.context_lens.max()
        for name in Batch.__slots__:
            array = getattr(batch, name)
            assert array.dtype == np.int32, name
            assert array.flags.c_contiguous, name
