"""Layers in groups with a block table each compute what they compute with one for all of them."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.batches import Chunk, make_batch
from support.random_llama import HYBRID, random_llama

from octavo.formats.tensor import Encoding
from octavo.model.decoder import trace
from octavo.runtime.backend import Backend, Batch, Limits, LogitsExecutable
from octavo.runtime.kv_cache import BLOCK_SIZE, KVCacheSpec
from octavo.runtime.reference import ReferenceBackend

MAX_LEN = 600
NUM_BLOCKS = 800
MODEL = random_llama(Encoding.F32, MAX_LEN, HYBRID)
CUTS = [((0, 3), (1, 2, 4)), ((0, 3), (1, 2), (4,)), ((0,), (3,), (1,), (2,), (4,)), ((4, 2, 0), (1, 3))]
"""Groups that share a block's planes in different ways; the last has full and windowed layers mixed."""


@functools.cache
def make_executable(name: str, groups: tuple[tuple[int, ...], ...] = ()) -> LogitsExecutable:
    backend: Backend = ReferenceBackend()
    if name == "native":
        native = pytest.importorskip("octavo.runtime.native", exc_type=ImportError)
        backend = native.NativeBackend(threads=2)
    kv_cache = KVCacheSpec(trace(HYBRID).cache_layers, "float16", groups)
    limits = Limits(MAX_LEN, 16, 8, MAX_LEN, HYBRID.vocab_size)
    executable = backend.compile(trace(HYBRID), MODEL.weights, kv_cache, limits)
    executable.allocate_kv_cache(NUM_BLOCKS)
    return executable


def seen_by_all(group: tuple[int, ...]) -> int:
    """The most tokens that a layer of a group sees."""
    windows = [HYBRID.windows[layer] for layer in group]
    return max(windows) if all(windows) else MAX_LEN


class Grouped:
    """Sequences with blocks of their own in each group, but for a beginning that they may share."""

    def __init__(self, executable: LogitsExecutable, groups: tuple[tuple[int, ...], ...], seed: int) -> None:
        self.executable, self.groups = executable, groups
        self.random = np.random.default_rng(seed)
        self.free = self.random.permutation(NUM_BLOCKS).tolist()

    def table(self, shared: list[np.ndarray], num_tokens: int) -> list[np.ndarray]:
        """A table of blocks for each group, which begins with the `shared` ones."""
        count = -(-num_tokens // BLOCK_SIZE)
        tables = []
        for first in shared:
            added = [self.free.pop() for _ in range(count - len(first))]
            tables.append(np.concatenate([first, np.array(added, np.int64)]))
        return tables

    def run(self, chunks: list[Chunk], tables: list[list[np.ndarray]]) -> np.ndarray:
        """Run a step; entries of blocks that no layer of a group sees any more say some other block."""
        batch: Batch = make_batch(chunks)
        width = batch.block_tables.shape[2]
        stacked = np.zeros((len(self.groups), len(chunks), width), np.int32)
        for row, (chunk, of_groups) in enumerate(zip(chunks, tables, strict=True)):
            for number, (group, table) in enumerate(zip(self.groups, of_groups, strict=True)):
                gone = max(0, chunk.num_computed - seen_by_all(group) + 1) // BLOCK_SIZE
                used = table[: len(chunk.block_table)]
                stacked[number, row, : len(used)] = used
                stacked[number, row, :gone] = self.random.integers(0, NUM_BLOCKS, min(gone, width))
        return self.executable.run(dataclasses.replace(batch, block_tables=stacked)).copy()


@settings(max_examples=20, deadline=None)
@given(
    name=st.sampled_from(["reference", "native", "native", "native"]),
    groups=st.sampled_from(CUTS),
    lengths=st.lists(st.tuples(st.integers(2, MAX_LEN), st.integers(0, 40)), min_size=1, max_size=4),
    cut=st.floats(0, 1),
    seed=st.integers(0, 99),
)
def test_as_with_one_table_for_all(
    name: str, groups: tuple[tuple[int, ...], ...], lengths: list[tuple[int, int]], cut: float, seed: int
):
    """A prompt in two chunks, then a token more; later sequences begin with blocks of the first."""
    plain, grouped = make_executable(name), make_executable(name, groups)
    by_group = Grouped(grouped, groups, seed)
    tokens = by_group.random.integers(0, HYBRID.vocab_size, MAX_LEN).tolist()
    no_blocks: list[np.ndarray] = [np.zeros(0, np.int64) for _ in groups]
    chunks: list[Chunk] = []
    tables: list[list[np.ndarray]] = []
    first_free = 0
    for length, most_shared in lengths:
        shared = min(most_shared, (length - 1) // BLOCK_SIZE, *(len(each.block_table) for each in chunks[:1]))
        shared = shared if chunks else 0
        table = list(chunks[0].block_table[:shared]) if chunks else []
        added = -(-length // BLOCK_SIZE) - shared
        table += range(first_free, first_free + added)
        first_free += added
        beginning = [of_group[:shared] for of_group in tables[0]] if tables else no_blocks
        of_groups = by_group.table(beginning, length)
        middle = int(cut * (length - 1))
        own = tokens[: shared * BLOCK_SIZE] + tokens[len(chunks) : len(chunks) + length - shared * BLOCK_SIZE]
        for end, start in ((middle, 0), (length - 1, middle)):
            # What is shared is computed again, to the same bits: it must not matter to those that share it.
            if end > start:
                part = Chunk(own[:end], start, table[: -(-end // BLOCK_SIZE)])
                assert np.array_equal(by_group.run([part], [of_groups]), plain.run(make_batch([part]))), (
                    f"{end} tokens, {start} computed"
                )
        chunks.append(Chunk(own, length - 1, table))
        tables.append(of_groups)
    assert np.array_equal(by_group.run(chunks, tables), plain.run(make_batch(chunks)))


def test_a_block_has_room_for_the_largest_group_only():
    layers = trace(HYBRID).cache_layers
    whole = KVCacheSpec(layers, "float16")
    cut = KVCacheSpec(layers, "float16", ((0, 3), (1, 2), (4,)))
    assert 5 * cut.block_bytes == 2 * whole.block_bytes
    for name in ("reference", "native"):
        executable = make_executable(name, cut.groups)
        data = np.arange(2 * cut.block_bytes, dtype=np.uint64).astype(np.uint8).reshape(2, -1)
        executable.write_blocks([7, 0], data)
        executable.copy_blocks([7], [9])
        assert np.array_equal(executable.read_blocks([9, 0]), data)


def test_a_step_has_a_table_for_each_group():
    executable = make_executable("native", CUTS[0])
    with pytest.raises(ValueError, match="each group"):
        executable.run(make_batch([Chunk([1, 2, 3], 0, [0])]))


def test_what_one_group_shares_another_need_not():
    """Ten sequences begin with the same blocks in one group that sees all, with their own in the other."""
    executable = make_executable("native", CUTS[2])
    random = np.random.default_rng(3)
    planes = KVCacheSpec(trace(HYBRID).cache_layers, "float16", CUTS[2])
    content = random.normal(0, 0.5, (NUM_BLOCKS, planes.block_bytes // 2)).astype(np.float16).view(np.uint8)
    count, length, shared = 10, 300, 256 // BLOCK_SIZE
    width = -(-length // BLOCK_SIZE)
    tables = random.permutation(NUM_BLOCKS)[: 3 * count * width].reshape(3, count, width)
    tables = tables[[0, 1, 2, 2, 2]].astype(np.int32)  # Those with a window may lie anywhere.
    tables[0, :, :shared] = tables[0, 0, :shared]
    batch = make_batch([Chunk([7] * length, length - 1, range(width)) for _ in range(count)])
    executable.write_blocks(range(NUM_BLOCKS), content)
    together = executable.run(dataclasses.replace(batch, block_tables=tables)).copy()
    for number in range(count):
        executable.write_blocks(range(NUM_BLOCKS), content)
        one = make_batch([Chunk([7] * length, length - 1, range(width))])
        own = np.ascontiguousarray(tables[:, number : number + 1])
        assert np.array_equal(executable.run(dataclasses.replace(one, block_tables=own))[0], together[number])
    assert len(np.unique(together, axis=0)) == count
