"""The engine on real backends: the right log probabilities, and on native ones the same bits always."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.batch_invariance import (
    EngineFactory,
    Result,
    check_batch_invariance,
    engine_settings,
    requests,
    run_alone,
    run_to_end,
)
from support.batches import Chunk, make_batch
from support.random_llama import HYBRID, SPEC, random_llama

from octavo.engine.engine import Engine, EngineSettings
from octavo.engine.kv.kv_groups import KVGroup, kv_groups
from octavo.engine.messages import AddRequest
from octavo.engine.scheduling.scheduler import SchedulerSettings
from octavo.formats.tensor import Encoding
from octavo.model.decoder import trace
from octavo.model.spec import ModelSpec
from octavo.runtime.backend import Backend, Limits, LogitsExecutable
from octavo.runtime.kv_cache import KVCacheSpec
from octavo.runtime.reference import ReferenceBackend
from octavo.sampling_params import SamplingParams

MAX_MODEL_LEN = 96
SIZES = {"vocab_size": SPEC.vocab_size, "max_model_len": MAX_MODEL_LEN}


def make_backend(name: str, threads: int = 2) -> Backend:
    if name == "reference":
        return ReferenceBackend()
    native = pytest.importorskip("octavo.runtime.native", exc_type=ImportError)
    return native.NativeBackend(threads=threads)


def compile_llama(
    backend: Backend,
    encoding: Encoding,
    kv_dtype: str,
    limits: Limits,
    spec: ModelSpec = SPEC,
    groups: tuple[KVGroup, ...] = (KVGroup(),),
) -> LogitsExecutable:
    model = random_llama(encoding, MAX_MODEL_LEN, spec)
    layers = tuple(group.layers for group in groups) if len(groups) > 1 else ()
    program = trace(spec)
    kv_cache = KVCacheSpec(program.cache_layers, kv_dtype, layers)
    return backend.compile(program, model.weights, kv_cache, limits)


def engine_factory(
    backend: Backend, encoding: Encoding, kv_dtype: str = "float16", spec: ModelSpec = SPEC
) -> EngineFactory:
    """Makes engines of the random Llama, each compiled for the largest step of its settings."""

    def make(engine_settings: EngineSettings) -> Engine:
        bounds = engine_settings.scheduler
        limits = Limits(
            bounds.max_num_batched_tokens,
            bounds.max_outputs,
            bounds.max_num_seqs,
            engine_settings.max_model_len,
            spec.vocab_size,
        )
        executable = compile_llama(backend, encoding, kv_dtype, limits, spec, bounds.kv_groups)
        return Engine(executable, engine_settings)

    return make


@functools.cache
def native_factory(encoding: Encoding, threads: int) -> EngineFactory:
    return engine_factory(make_backend("native", threads), encoding)


@pytest.mark.parametrize("encoding", [Encoding.F32, Encoding.Q8_0, Encoding.Q4_0, Encoding.Q4_1])
@settings(max_examples=10, deadline=None)
@given(batch=requests(most=32, **SIZES), engine=engine_settings(**SIZES), data=st.data())
def test_batch_invariance(
    encoding: Encoding, batch: list[AddRequest], engine: EngineSettings, data: st.DataObject
):
    """Alone on one thread, and together on two."""

    def alone(request: AddRequest) -> Result:
        return run_alone(native_factory(encoding, 1), request, MAX_MODEL_LEN, SPEC.vocab_size)

    check_batch_invariance(native_factory(encoding, 2), alone, engine, batch, data)


WINDOWS = SPEC.with_windows((21, 24))


@pytest.mark.parametrize("spec", [WINDOWS, HYBRID], ids=["windows", "hybrid"])
@settings(max_examples=8, deadline=None)
@given(batch=requests(most=8, **SIZES), data=st.data())
def test_blocks_out_of_the_window_are_not_missed(
    spec: ModelSpec, batch: list[AddRequest], data: st.DataObject
):
    """Alone with every block of every layer kept."""
    groups = kv_groups(trace(spec).cache_layers, MAX_MODEL_LEN)
    make = engine_factory(make_backend("native"), Encoding.Q8_0, spec=spec)
    engine = data.draw(engine_settings(**SIZES, groups=groups))

    def alone(request: AddRequest) -> Result:
        return run_alone(make, request, MAX_MODEL_LEN, SPEC.vocab_size)

    check_batch_invariance(make, alone, engine, batch, data)


@pytest.mark.parametrize("name", ["reference", "native"])
def test_log_probabilities_are_those_of_the_whole_sequence_at_once(name: str):
    """Chunked, batched, preempted and cached, against one pass of the reference backend per sequence."""
    scheduler = SchedulerSettings(max_num_seqs=4, max_num_batched_tokens=24, max_outputs=10)
    settings = EngineSettings(scheduler, MAX_MODEL_LEN, SPEC.vocab_size, num_blocks=8)
    engine = engine_factory(make_backend(name), Encoding.F32, "float32")(settings)
    random = np.random.default_rng(1)
    shared = random.integers(0, SPEC.vocab_size, 40).tolist()
    batch = []
    for number in range(8):
        params = SamplingParams(
            max_tokens=20, seed=number, ignore_eos=True, logprobs=0, prompt_logprobs=0 if number % 2 else None
        )
        prompt = [*shared[: random.integers(0, 40)], number]
        batch.append(AddRequest(str(number), prompt, params, [], float(number)))
    results = run_to_end(engine, [(2 * int(each.request_id), each) for each in batch])
    assert engine.step().stats.num_preemptions > 0
    assert engine.step().stats.prefix_cache_hits > 0

    limits = Limits(96, 96, 1, 96, SPEC.vocab_size)
    whole = compile_llama(ReferenceBackend(), Encoding.F32, "float32", limits)
    whole.allocate_kv_cache(6)
    for each in batch:
        result = results[each.request_id]
        tokens = each.prompt_token_ids + result.token_ids
        logits = whole.run(make_batch([Chunk(tokens, 0, range(6), "all")])).astype(np.float64)[:-1]
        expected = logits[range(len(logits)), tokens[1:]] - np.log(np.exp(logits).sum(axis=1))
        given = [entry.logprobs[0] for entry in [*(result.prompt_logprobs or [])[1:], *result.logprobs]]
        assert len(given) == (len(expected) if result.prompt_logprobs else len(result.token_ids))
        np.testing.assert_allclose(given, expected[-len(given) :], atol=2e-4)
        assert -20 < min(expected) < max(expected) < 0  # A model that says something.
