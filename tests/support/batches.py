"""Builds the arrays of a step, and runs schedules of steps, without an engine."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from octavo.runtime.backend import Batch, LogitsExecutable
from octavo.runtime.kv_cache import BLOCK_SIZE


@dataclass
class Chunk:
    """A sequence's part in a step: `tokens[num_computed:]` are new, at the slots of `block_table`.

    `outputs` says which of the new rows want logits: "last", "all" or "none".
    """

    tokens: Sequence[int]
    num_computed: int
    block_table: Sequence[int]
    outputs: str = "last"


def make_batch(chunks: Sequence[Chunk]) -> Batch:
    """The batch of one step; block tables are padded with block -1, which a backend must not read."""
    starts = np.cumsum([0] + [len(chunk.tokens) - chunk.num_computed for chunk in chunks])
    outputs: list[int] = []
    for start, end, chunk in zip(starts, starts[1:], chunks, strict=False):
        outputs += {"last": [end - 1], "all": range(start, end), "none": []}[chunk.outputs]
    tables = np.full((len(chunks), max(len(chunk.block_table) for chunk in chunks)), -1)
    for row, chunk in zip(tables, chunks, strict=True):
        row[: len(chunk.block_table)] = chunk.block_table
    return Batch(
        token_ids=_int32(token for chunk in chunks for token in chunk.tokens[chunk.num_computed :]),
        positions=_int32(p for chunk in chunks for p in range(chunk.num_computed, len(chunk.tokens))),
        query_starts=_int32(starts),
        context_lens=_int32(len(chunk.tokens) for chunk in chunks),
        block_tables=np.ascontiguousarray(tables[None], dtype=np.int32),
        output_rows=_int32(outputs),
    )


def run_schedule(
    executable: LogitsExecutable,
    sequences: Sequence[Sequence[int]],
    schedule: Sequence[Sequence[tuple[int, int]]],
    seed: int = 0,
) -> list[dict[int, np.ndarray]]:
    """Run steps of (sequence, number of new tokens) pairs over blocks in shuffled order.

    Gives, for each sequence, the logits row of every position that was computed. Every other step asks for
    all of its rows, the others for the last one of each sequence.
    """
    needed = [-(-len(tokens) // BLOCK_SIZE) for tokens in sequences]
    executable.allocate_kv_cache(sum(needed) + 3)
    blocks = np.random.default_rng(seed).permutation(sum(needed) + 3).tolist()
    tables = [[blocks.pop() for _ in range(count)] for count in needed]
    done = [0] * len(sequences)
    logits: list[dict[int, np.ndarray]] = [{} for _ in sequences]
    for number, step in enumerate(schedule):
        outputs = "last" if number % 2 else "all"
        chunks = [
            Chunk(
                sequences[s][: done[s] + count],
                done[s],
                tables[s][: -(-(done[s] + count) // BLOCK_SIZE)],
                outputs,
            )
            for s, count in step
        ]
        rows = iter(executable.run(make_batch(chunks)).copy())
        for s, count in step:
            done[s] += count
            for position in range(done[s] - (1 if outputs == "last" else count), done[s]):
                logits[s][position] = next(rows)
    return logits


def _int32(values: Iterable[int]) -> np.ndarray:
    return np.array(list(values), dtype=np.int32)
