"""The reference backend is a definition: a token's row has the same bits whatever is computed beside it."""

from __future__ import annotations

import functools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from support.batches import run_schedule
from support.processors import environments, output_on
from support.random_llama import SPEC, random_llama

from octavo.model.decoder import trace
from octavo.runtime.backend import Executable, Limits
from octavo.runtime.kv_cache import KVCacheSpec
from octavo.runtime.kv_items import KV_CACHE_DTYPES
from octavo.runtime.reference import ReferenceBackend

MAX_LEN = 96
MODEL = random_llama(max_model_len=MAX_LEN)  # of two layers, one with a window of 24


@functools.cache
def make_executable(dtype: str) -> Executable:
    kv_cache = KVCacheSpec(trace(SPEC).cache_layers, dtype)
    return ReferenceBackend().compile(
        trace(SPEC), MODEL.weights, kv_cache, Limits(MAX_LEN, MAX_LEN, 4, MAX_LEN, SPEC.vocab_size)
    )


@st.composite
def schedules(draw: st.DrawFn, lengths: list[int]) -> list[list[tuple[int, int]]]:
    """Steps that compute sequences of these lengths, some of them in each."""
    left, steps = list(lengths), []
    while any(left):
        step = []
        for number, most in enumerate(left):
            count = draw(st.sampled_from([most, min(most, 1), 0]) | st.integers(0, most))
            if count:
                step.append((number, count))
                left[number] -= count
        if step:
            steps.append(step)
    return steps


@settings(max_examples=30, deadline=None)
@given(st.data(), st.sampled_from(KV_CACHE_DTYPES), st.integers(0, 99))
def test_rows_do_not_depend_on_the_step(data: st.DataObject, dtype: str, seed: int):
    """Sequences in chunks beside each other, against each of them at once and alone."""
    lengths = data.draw(st.lists(st.integers(1, MAX_LEN), min_size=1, max_size=3))
    rng = np.random.default_rng(seed)
    sequences = [rng.integers(0, SPEC.vocab_size, length).tolist() for length in lengths]
    executable = make_executable(dtype)
    together = run_schedule(executable, sequences, data.draw(schedules(lengths)), seed)
    for sequence, rows in zip(sequences, together, strict=True):
        (alone,) = run_schedule(executable, [sequence], [[(0, len(sequence))]])
        for position, row in rows.items():
            assert row.tobytes() == alone[position].tobytes(), f"position {position} of {len(sequence)}"


def test_rows_computed_one_by_one_are_those_of_one_step():
    tokens = np.random.default_rng(1).integers(0, SPEC.vocab_size, MAX_LEN).tolist()
    executable = make_executable("float32")
    (whole,) = run_schedule(executable, [tokens], [[(0, MAX_LEN)]])
    (single,) = run_schedule(executable, [tokens], [[(0, 1)]] * MAX_LEN)
    for position in range(MAX_LEN):
        assert single[position].tobytes() == whole[position].tobytes(), f"position {position}"


def test_another_processor_gives_the_same_bits():
    """With every BLAS that this processor can run, and without NumPy's vector code."""
    here, *others = environments()
    expected = output_on(here, "support.reference_digest")
    assert expected.startswith("logits ")
    for each in others:
        assert output_on(each, "support.reference_digest") == expected, each
