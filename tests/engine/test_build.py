"""From a configuration to an engine that answers."""

from __future__ import annotations

import logging

import pytest
from support.batch_invariance import run_to_end
from support.random_llama import SPEC, random_llama

from octavo.config import EngineConfig
from octavo.engine import build
from octavo.engine.kv.block_hash import HASH_ALGORITHMS
from octavo.engine.messages import AddRequest
from octavo.runtime.kv_cache import PagedKV
from octavo.sampling_params import SamplingParams


@pytest.fixture
def tiny_model(monkeypatch: pytest.MonkeyPatch):
    """The random Llama in place of whatever model is asked for."""

    def load(config: EngineConfig, calibrate: object):
        return random_llama(max_model_len=config.max_model_len or 128)

    monkeypatch.setattr(build, "load_model", load)


def generate(engine, prompt: list[int]) -> list[int]:
    params = SamplingParams(temperature=0.0, max_tokens=8, ignore_eos=True)
    return run_to_end(engine, [(0, AddRequest("a", prompt, params, [0], 0.0))])["a"].token_ids


@pytest.mark.usefixtures("tiny_model")
def test_backends_build_and_agree(caplog: pytest.LogCaptureFixture):
    pytest.importorskip("octavo.runtime.native", exc_type=ImportError)
    caplog.set_level(logging.INFO, logger="octavo")
    tokens = {}
    for backend in ("reference", "native"):
        engine = build.build_engine(
            EngineConfig(backend=backend, threads=1, kv_cache_dtype="float32", num_gpu_blocks_override=20)
        )
        ready = engine.ready()
        assert (ready.num_blocks, ready.max_model_len) == (20, 128)
        assert (
            ready.kv_cache_bytes == 20 * 16 * 2 * SPEC.attentions[0].kv_cols * 4
        )  # A block is of one layer of the two.
        assert ready.weight_bytes > 0
        assert (ready.isa == "numpy") == (backend == "reference")
        tokens[backend] = generate(engine, [5, 6, 7])
    assert tokens["native"] == tokens["reference"]
    assert "KV cache size: 160 tokens in 20 blocks" in caplog.text
    assert "Maximum concurrency for 128 tokens per request: 1.25x" in caplog.text


@pytest.mark.usefixtures("tiny_model")
@pytest.mark.parametrize(
    ("threads", "wanted", "is_ahead"), [(1, None, True), (2, None, False), (2, True, True), (1, False, False)]
)
def test_steps_are_planned_ahead_where_a_cpu_is_free(
    threads: int, wanted: bool | None, is_ahead: bool, monkeypatch: pytest.MonkeyPatch
):
    pytest.importorskip("octavo.runtime.native", exc_type=ImportError)
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 1})
    config = EngineConfig(threads=threads, async_scheduling=wanted, num_gpu_blocks_override=20)
    assert (build.build_engine(config)._ahead is not None) == is_ahead


def test_steps_are_not_planned_ahead_of_an_offload():
    with pytest.raises(ValueError, match=r"async_scheduling \(--async-scheduling\) does not go with"):
        EngineConfig(async_scheduling=True, kv_offload_gb=1.0)
    EngineConfig(async_scheduling=False, kv_offload_gb=1.0)


@pytest.mark.usefixtures("tiny_model")
def test_layers_with_a_window_need_blocks_for_it_alone(caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO, logger="octavo")
    config = EngineConfig(backend="reference", max_num_batched_tokens=16, num_gpu_blocks_override=24)
    engine = build.build_engine(config)
    # 8 blocks of the one layer, and of the other those of 24 - 1 tokens and a chunk, wherever they begin.
    assert engine.ready().kv_tokens == 2 * 128
    assert "Maximum concurrency for 128 tokens per request: 2.00x" in caplog.text
    assert "1 layers that see all tokens; 1 layers that see a window of 24 tokens" in caplog.text
    config.num_gpu_blocks_override = 11
    with pytest.raises(ValueError, match=r"must be at least 12, or max_model_len .* at most 112:"):
        build.build_engine(config)
    # Where no sequence is longer than the window there is nothing to gain.
    config.max_model_len = 24
    assert build.build_engine(config).ready().kv_tokens == 11 * 16


@pytest.mark.usefixtures("tiny_model")
def test_memory_is_taken_from_the_flags():
    config = EngineConfig(backend="reference", max_num_seqs=3, max_model_len=64)
    assert build.build_engine(config).ready().num_blocks == 3 * (4 + 4)
    config.kv_cache_memory_bytes = 100
    with pytest.raises(ValueError, match=r"kv_cache_memory_bytes .* at least"):
        build.build_engine(config)


def test_a_head_dim_that_is_odd_has_no_int16_cache():
    even = (PagedKV(num_kv_heads=2, key_dim=16, value_dim=16),)
    odd = (*even, PagedKV(num_kv_heads=2, key_dim=16, value_dim=15))
    assert build.kv_cache_spec(EngineConfig(), even).dtype == "int16"
    assert build.kv_cache_spec(EngineConfig(), odd).dtype == "float16"
    assert build.kv_cache_spec(EngineConfig(kv_cache_dtype="int8"), odd).dtype == "int8"
    with pytest.raises(
        ValueError, match=r"^kv_cache_dtype \(--kv-cache-dtype\) int16 needs an even head_dim"
    ):
        build.kv_cache_spec(EngineConfig(kv_cache_dtype="int16"), odd)


@pytest.mark.usefixtures("tiny_model")
def test_a_prompt_is_computed_whole_without_chunked_prefill():
    engine = build.build_engine(
        EngineConfig(backend="reference", enable_chunked_prefill=False, max_num_batched_tokens=16)
    )
    params = SamplingParams(temperature=0.0, max_tokens=1)
    engine.add(AddRequest("a", [1] * 100, params, [], 0.0))
    assert engine.step().stats.num_scheduled_tokens == 100


@pytest.mark.usefixtures("tiny_model")
def test_prefix_caching_can_be_turned_off():
    for caching in (True, False):
        engine = build.build_engine(EngineConfig(backend="reference", enable_prefix_caching=caching))
        generate(engine, [1] * 40)
        generate(engine, [1] * 40)
        engine.reset_prefix_cache()
        assert (engine.step().stats.prefix_cache_hits > 0) == caching


@pytest.mark.usefixtures("tiny_model")
@pytest.mark.parametrize("algorithm", HASH_ALGORITHMS)
def test_every_hash_algorithm_finds_what_was_computed(algorithm: str):
    engine = build.build_engine(EngineConfig(backend="reference", prefix_caching_hash_algo=algorithm))
    assert engine._hasher.algorithm == algorithm
    first = generate(engine, [1] * 40)
    assert generate(engine, [1] * 40) == first
    assert engine.step().stats.prefix_cache_hits == 39


def test_a_missing_model_is_a_value_error():
    with pytest.raises(ValueError, match="model"):
        build.build_engine(EngineConfig(model="no/such/model", backend="reference"))
