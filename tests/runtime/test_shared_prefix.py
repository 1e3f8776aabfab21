"""Sequences whose block tables begin alike are computed together; each gets just what it gets alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.batches import Chunk, make_batch
from support.random_llama import SPEC, random_llama

from octavo.formats.tensor import Encoding
from octavo.model.decoder import trace
from octavo.runtime.backend import Limits
from octavo.runtime.kv_cache import BLOCK_SIZE, KVCacheSpec

native = pytest.importorskip("octavo.runtime.native", exc_type=ImportError)
isas = pytest.importorskip("octavo.machine.isa", exc_type=ImportError)

MAX_LEN = 900
MODEL = random_llama(Encoding.Q8_0, MAX_LEN)


def executable(isa: str, threads: int, dtype: str):
    spec = KVCacheSpec(trace(SPEC).cache_layers, dtype)
    made = native.NativeBackend(threads=threads, isa=isa).compile(
        trace(SPEC), MODEL.weights, spec, Limits(MAX_LEN, 16, 16, MAX_LEN, SPEC.vocab_size)
    )
    made.allocate_kv_cache(16 * MAX_LEN // BLOCK_SIZE)
    return made


@st.composite
def families(draw: st.DrawFn) -> list[Chunk]:
    """Sequences to decode one token of, each of which may begin with blocks of one before it."""
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    chunks: list[Chunk] = []
    blocks = 0
    for number in range(draw(st.integers(5, 10))):
        tokens: list[int] = []
        table: list[int] = []
        if number and draw(st.integers(0, 4)):
            parent = chunks[draw(st.integers(0, number - 1))]
            shared = draw(st.integers(0, (len(parent.tokens) - 1) // BLOCK_SIZE))
            tokens, table = list(parent.tokens[: shared * BLOCK_SIZE]), list(parent.block_table[:shared])
        new = draw(st.integers(1, MAX_LEN - len(tokens)) | st.integers(1, 40))
        tokens += rng.integers(0, SPEC.vocab_size, min(new, MAX_LEN - len(tokens))).tolist()
        added = -(-len(tokens) // BLOCK_SIZE) - len(table)
        table += range(blocks, blocks + added)
        blocks += added
        chunks.append(Chunk(tokens, len(tokens) - 1, table))
    return draw(st.permutations(chunks))


@settings(max_examples=40, deadline=None)
@given(
    chunks=families(),
    isa=st.sampled_from(isas.available_isas()),
    threads=st.integers(1, 3),
    dtype=st.sampled_from(["float16", "int8"]),
)
def test_decoding_together_equals_decoding_alone(
    chunks: list[Chunk], isa: str, threads: int, dtype: str
) -> None:
    runs = executable(isa, threads, dtype)
    for chunk in chunks:
        runs.run(make_batch([Chunk(chunk.tokens, 0, chunk.block_table)]))
    alone = [runs.run(make_batch([chunk])).copy() for chunk in chunks]
    together = runs.run(make_batch(chunks))
    np.testing.assert_array_equal(together, np.concatenate(alone))
