"""What a step costs, counted, and what the machine allows, measured."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.random_llama import SPEC, random_llama

from octavo.bench.roofline import ModelWork, Roofline, count_work, measure_roofline
from octavo.bench.workload import Workload
from octavo.formats.tensor import Encoding
from octavo.machine.isa import available_isas
from octavo.model.decoder import trace
from octavo.runtime.kv_cache import KVCacheSpec

KV_CACHE = KVCacheSpec(trace(SPEC).cache_layers, "float16")
MACHINE = Roofline(isa="avx2", threads=1, read_bandwidth=1e10, integer_rate=1e11, float_rate=1e10)
DECODE = Workload(kind="decode", prompt_tokens=127, output_tokens=1)

counts = st.integers(0, 10**9)
works = st.builds(
    ModelWork,
    weight_bytes=st.integers(1, 10**11),
    kv_position_bytes=counts,
    token_macs=st.tuples(counts, counts),
    output_macs=st.tuples(counts, counts),
    attention_macs=counts,
)


def test_a_models_work_is_that_of_its_matrices():
    layer = 64 * (64 + 2 * 32) + 64 * 64 + 3 * 64 * 96
    model = random_llama(Encoding.Q4_0)
    work = count_work(trace(SPEC), model.weights, KV_CACHE, weight_bytes=1000)
    # The last layer's output linear and MLP are done for the rows that give logits only.
    in_all = work.token_macs[0] + work.output_macs[0]
    assert in_all == 2 * layer + 64 * 80
    assert work.output_macs[0] == 64 * 64 + 3 * 64 * 96 + 64 * 80
    assert work.token_macs[1] == work.output_macs[1] == 0
    assert work.attention_macs == 2 * (2 * 64)
    assert work.kv_position_bytes == 2 * 2 * 2 * 16 * 2


def test_float_weights_are_float_work():
    model = random_llama(Encoding.F32)
    work = count_work(trace(SPEC), model.weights, KV_CACHE, weight_bytes=1000)
    assert work.token_macs[0] == work.output_macs[0] == 0
    assert work.token_macs[1] > 0


def test_a_decode_step_reads_the_weights_and_each_context_once():
    work = ModelWork(
        weight_bytes=10**9, kv_position_bytes=1000, token_macs=(0, 0), output_macs=(0, 0), attention_macs=0
    )
    assert work.step_bytes(DECODE) == 10**9 + 128 * 1000
    ceiling = work.ceiling(DECODE, MACHINE)
    assert ceiling.bound == "memory"
    assert ceiling.tokens_per_second == pytest.approx(1 / ((10**9 + 128_000) / 1e10))


def test_a_prefill_is_bounded_by_its_multiply_adds():
    work = ModelWork(
        weight_bytes=10**6,
        kv_position_bytes=0,
        token_macs=(10**8, 0),
        output_macs=(5 * 10**8, 0),
        attention_macs=1000,
    )
    prefill = Workload(kind="prefill", prompt_tokens=100)
    ceiling = work.ceiling(prefill, MACHINE)
    seconds = (100 * 10**8 + 5 * 10**8) / 1e11 + 100 * 50.5 * 1000 / 1e10
    assert ceiling.bound == "arithmetic"
    assert ceiling.tokens_per_second == pytest.approx(100 / seconds)


@given(works, st.integers(1, 64))
def test_a_larger_batch_never_allows_fewer_tokens_a_second_nor_a_faster_step(work: ModelWork, batch: int):
    def ceiling(size: int) -> float:
        decode = Workload(kind="decode", prompt_tokens=100, batch=size)
        return work.ceiling(decode, MACHINE).tokens_per_second

    assert ceiling(batch + 1) >= ceiling(batch) * (1 - 1e-9)
    assert (batch + 1) / ceiling(batch + 1) >= batch / ceiling(batch) * (1 - 1e-9)


@pytest.mark.parametrize("isa", available_isas())
def test_rates_are_a_processors(isa: str):
    """In wide bounds: beside other work on the machine one tier may seem slower than another."""
    rates = measure_roofline(isa, threads=1)
    for rate in (rates.read_bandwidth, rates.integer_rate, rates.float_rate):
        assert 1e7 < rate < 1e13


def test_the_faster_of_two_measurements_counts():
    slow = Roofline(isa="avx2", threads=1, read_bandwidth=1, integer_rate=5, float_rate=9)
    fast = Roofline(isa="avx2", threads=1, read_bandwidth=2, integer_rate=4, float_rate=8)
    best = Roofline(isa="avx2", threads=1, read_bandwidth=2, integer_rate=5, float_rate=9)
    assert slow.fastest(fast) == fast.fastest(slow) == best


def test_an_unknown_tier_is_refused():
    with pytest.raises(ValueError, match="no ISA tier sse9"):
        measure_roofline("sse9", threads=1)
