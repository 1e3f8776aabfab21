"""Whole blocks, copied or carried over to another executable, are as good as those that were computed."""

from __future__ import annotations

import numpy as np
import pytest
from support.batches import Chunk, make_batch
from support.random_llama import SPEC, random_llama

from octavo.formats.tensor import Encoding
from octavo.model.decoder import trace
from octavo.runtime.backend import Limits, LogitsExecutable
from octavo.runtime.kv_cache import KVCacheSpec
from octavo.runtime.kv_items import KV_CACHE_DTYPES
from octavo.runtime.reference import ReferenceBackend

TOKENS = np.random.default_rng(3).integers(0, SPEC.vocab_size, 40).tolist()


@pytest.fixture(params=["reference", "native"])
def backend_name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=KV_CACHE_DTYPES)
def kv_cache(request: pytest.FixtureRequest) -> KVCacheSpec:
    return KVCacheSpec(trace(SPEC).cache_layers, request.param)


def make_executable(backend_name: str, kv_cache: KVCacheSpec) -> LogitsExecutable:
    if backend_name == "reference":
        backend = ReferenceBackend()
    else:
        native = pytest.importorskip("octavo.runtime.native", exc_type=ImportError)
        backend = native.NativeBackend(threads=2)
    model = random_llama(Encoding.F32)
    limits = Limits(64, 64, 4, model.max_model_len, SPEC.vocab_size)
    executable = backend.compile(trace(SPEC), model.weights, kv_cache, limits)
    executable.allocate_kv_cache(8)
    return executable


def compute(executable: LogitsExecutable, end: int, start: int, table: list[int]) -> np.ndarray:
    return executable.run(make_batch([Chunk(TOKENS[:end], start, table)])).copy()


def test_a_copy_is_gone_on_from(backend_name: str, kv_cache: KVCacheSpec):
    executable = make_executable(backend_name, kv_cache)
    compute(executable, 39, 0, [5, 2, 7])
    executable.copy_blocks([2, 7], [0, 3])
    compute(executable, 30, 0, [5, 2, 7])  # The first owner writes on: the copy is its own.
    executable.write_blocks([2, 7], np.zeros((2, kv_cache.block_bytes), np.uint8))
    copied = compute(executable, 40, 39, [5, 0, 3])
    fresh = make_executable(backend_name, kv_cache)
    compute(fresh, 39, 0, [0, 1, 2])
    assert np.array_equal(copied, compute(fresh, 40, 39, [0, 1, 2]))


def test_copies_are_made_in_order(backend_name: str, kv_cache: KVCacheSpec):
    executable = make_executable(backend_name, kv_cache)
    data = np.arange(3, dtype=np.uint8).repeat(kv_cache.block_bytes).reshape(3, -1)
    executable.write_blocks([0, 1, 2], data)
    executable.copy_blocks([0, 1], [1, 2])
    assert executable.read_blocks([0, 1, 2]).max() == 0


def test_blocks_are_carried_over_to_another_executable(backend_name: str, kv_cache: KVCacheSpec):
    first, second = make_executable(backend_name, kv_cache), make_executable(backend_name, kv_cache)
    compute(first, 39, 0, [5, 2, 7])
    data = first.read_blocks([7, 5, 2])
    assert data.shape == (3, kv_cache.block_bytes)
    assert data.dtype == np.uint8
    second.write_blocks([1, 6, 4], data)
    assert np.array_equal(second.read_blocks([6]), data[1:2])
    assert np.array_equal(compute(second, 40, 39, [6, 4, 1]), compute(first, 40, 39, [5, 2, 7]))


def test_what_does_not_fit_is_refused():
    spec = KVCacheSpec(trace(SPEC).cache_layers, "float16")
    executable = make_executable("native", spec)
    for call in (
        lambda: executable.copy_blocks([0], [8]),
        lambda: executable.copy_blocks([-1], [0]),
        lambda: executable.read_blocks([8]),
        lambda: executable.write_blocks([8], np.zeros((1, spec.block_bytes), np.uint8)),
    ):
        with pytest.raises(ValueError, match="a block id is outside the KV cache"):
            call()
    with pytest.raises(ValueError, match="differ in length"):
        executable.copy_blocks([0, 1], [2])
    with pytest.raises(ValueError, match="block_bytes"):
        executable.write_blocks([0], np.zeros((1, spec.block_bytes - 1), np.uint8))
