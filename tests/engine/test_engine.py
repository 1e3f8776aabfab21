"""One request after another through the engine, on an executable whose logits are a hash of the prefix."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st
from support.batch_invariance import (
    EOS,
    Result,
    check_batch_invariance,
    collect,
    engine_settings,
    requests,
    run_alone,
    run_to_end,
)
from support.hash_executable import HashExecutable, hashed_logits
from support.kv_layers import groups_of

from octavo.engine.build import step_limits
from octavo.engine.engine import Engine, EngineSettings
from octavo.engine.messages import AddRequest
from octavo.engine.scheduling.scheduler import SchedulerSettings
from octavo.request_options import RequestOptions
from octavo.sampling.logprobs import prompt_logprobs
from octavo.sampling.sampler import sample
from octavo.sampling.state import SamplingState
from octavo.sampling_params import SamplingParams

VOCAB = 19
MAX_MODEL_LEN = 96
ASYNC_SCHEDULING = False


@pytest.fixture(params=[False, True], ids=["in order", "ahead"])
def _both_ways(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """What Hypothesis draws in the properties, for each of the examples that use `small_engine`."""
    monkeypatch.setitem(globals(), "ASYNC_SCHEDULING", request.param)


in_both_ways = pytest.mark.usefixtures("_both_ways")


def make_engine(engine_settings: EngineSettings) -> Engine:
    limits = step_limits(engine_settings.scheduler, engine_settings.max_model_len, engine_settings.vocab_size)
    return Engine(HashExecutable(engine_settings.vocab_size, limits), engine_settings)


def small_engine(**changes) -> Engine:
    scheduler = SchedulerSettings(
        changes.pop("max_num_seqs", 4), changes.pop("max_num_batched_tokens", 64), max_outputs=16
    )
    defaults = {"num_blocks": 24, "async_scheduling": ASYNC_SCHEDULING}
    return make_engine(EngineSettings(scheduler, MAX_MODEL_LEN, VOCAB, **{**defaults, **changes}))


def request(number: int, prompt: list[int], output: list[int] | None = None, **params) -> AddRequest:
    params = {"temperature": 0.0, "max_tokens": 5, "ignore_eos": True, **params}
    return AddRequest(str(number), prompt, SamplingParams(**params), [EOS], float(number), output or [])


def oracle(each: AddRequest) -> Result:
    """What a request must give, worked out without an engine."""
    params, prompt = each.params, each.prompt_token_ids
    state = SamplingState(params, prompt, [], each.eos_token_ids, VOCAB)
    tokens, result = list(prompt), Result()

    def logits() -> np.ndarray:
        return hashed_logits(np.array(tokens), np.arange(len(tokens)), VOCAB)[None]

    while result.finish_reason is None:
        (sampled,) = sample(logits(), [state])
        state.append(sampled.token_id)
        tokens.append(sampled.token_id)
        result.token_ids.append(sampled.token_id)
        if sampled.logprobs is not None:
            result.logprobs.append(sampled.logprobs)
        if sampled.token_id == EOS and not params.ignore_eos:
            result.finish_reason = "stop"
        elif sampled.token_id in params.stop_token_ids:
            result.finish_reason, result.stop_reason = "stop", sampled.token_id
        elif len(result.token_ids) == params.max_tokens or len(tokens) == MAX_MODEL_LEN:
            result.finish_reason = "length"
    if params.prompt_logprobs is not None:
        result.prompt_logprobs = [None]
        for end in range(1, len(prompt)):
            row = hashed_logits(np.array(prompt[:end]), np.arange(end), VOCAB)[None]
            result.prompt_logprobs += prompt_logprobs(row, np.array(prompt[end : end + 1]), 1)
    return result


sizes = {"vocab_size": VOCAB, "max_model_len": MAX_MODEL_LEN}


@settings(max_examples=40, deadline=None)
@given(requests(most=1, **sizes))
def test_alone_a_request_gives_what_the_model_says(batch: list[AddRequest]):
    assert run_alone(make_engine, batch[0], MAX_MODEL_LEN, VOCAB) == oracle(batch[0])


@settings(max_examples=100, deadline=None)
@given(requests(most=32, **sizes), engine_settings(**sizes), st.data())
def test_batch_invariance(batch: list[AddRequest], engine: EngineSettings, data: st.DataObject):
    check_batch_invariance(make_engine, oracle, engine, batch, data)


@pytest.mark.parametrize("windows", [(21,), (0, 21), (0, 0, 40, 3)])
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_blocks_out_of_the_window_are_not_missed(windows: tuple[int, ...], data: st.DataObject):
    """With layers that see only a window: dropping what is beyond it changes nothing."""
    groups = groups_of(windows)
    engine = data.draw(engine_settings(**sizes, groups=groups))
    batch = data.draw(requests(most=32, **sizes))

    def make(engine_settings: EngineSettings) -> Engine:
        limits = step_limits(
            engine_settings.scheduler, engine_settings.max_model_len, engine_settings.vocab_size
        )
        return Engine(HashExecutable(VOCAB, limits, windows), engine_settings)

    check_batch_invariance(
        make, lambda each: run_alone(make, each, MAX_MODEL_LEN, VOCAB, groups), engine, batch, data
    )


@settings(max_examples=30, deadline=None)
@given(requests(most=8, **sizes), engine_settings(**sizes), st.integers(1, 40))
def test_streams_go_on_when_the_engine_is_replaced(
    batch: list[AddRequest], engine: EngineSettings, crash: int
):
    """What the API process does after a crash: each open stream again, with the tokens it has."""
    first = make_engine(engine)
    before: dict[str, Result] = {}
    for each in batch:
        first.add(each)
    for _ in range(crash):
        collect(before, first.step())
    resumed = [
        (0, msgspec.structs.replace(each, output_token_ids=given.token_ids))
        for each in batch
        if (given := before.setdefault(each.request_id, Result())).finish_reason is None
    ]
    event(f"resumed: {bool(resumed)}")
    after = run_to_end(make_engine(engine), resumed)
    for each in batch:
        whole, given = oracle(each), before[each.request_id]
        rest = after.get(each.request_id, Result(finish_reason=given.finish_reason))
        assert given.token_ids + rest.token_ids == whole.token_ids
        assert given.logprobs + rest.logprobs == whole.logprobs
        assert rest.finish_reason == whole.finish_reason


@in_both_ways
def test_preemption_changes_no_token():
    batch = [request(n, [n + 1] * 30, max_tokens=60) for n in range(4)]
    engine = small_engine(num_blocks=7)
    results: dict[str, Result] = {}
    for each in batch:
        engine.add(each)
    while engine.has_work:
        step = engine.step()
        collect(results, step)
    assert step.stats.num_preemptions > 2
    assert step.stats.num_free_blocks == 7
    assert results == {each.request_id: oracle(each) for each in batch}


@in_both_ways
def test_prefix_cache_is_used_and_reset():
    engine = small_engine()
    prompt = [n % VOCAB for n in range(50)]
    cached = []
    for number in range(3):
        if number == 2:
            engine.reset_prefix_cache()
        engine.add(request(number, prompt, max_tokens=1))
        cached.append(engine.step().outputs[0].num_cached_tokens)
    assert cached == [0, 49, 0]
    stats = engine.step().stats
    assert (stats.prefix_cache_queries, stats.prefix_cache_hits) == (150, 49)


@in_both_ways
def test_requests_that_begin_alike_and_come_together_compute_the_beginning_once():
    engine = small_engine(max_num_seqs=8, max_num_batched_tokens=512, num_blocks=48)
    prefix = [n % VOCAB for n in range(70)]
    batch = [request(number, [*prefix, number], max_tokens=2) for number in range(8)]
    for each in batch:
        engine.add(each)
    steps = [engine.step() for _ in range(3)]
    assert [each.stats.num_scheduled_tokens for each in steps] == [71, 1 + 7 * 1, 7]
    results: dict[str, Result] = {}
    for step in steps:
        collect(results, step)
    assert results == {each.request_id: oracle(each) for each in batch}


@in_both_ways
@pytest.mark.parametrize("prefix_caching", [True, False])
def test_a_group_shares_its_prompt_even_where_nothing_else_is_shared(prefix_caching: bool):
    engine = small_engine(max_num_seqs=8, num_blocks=48, prefix_caching=prefix_caching)
    prompt = [n % VOCAB for n in range(50)]
    for group in ("a", "b"):
        children = [
            msgspec.structs.replace(
                request(number, prompt, temperature=1.0, seed=number), options=RequestOptions(group=group)
            )
            for number in range(4)
        ]
        results = {}
        for each in children:
            engine.add(each)
        tokens = []
        while engine.has_work:
            step = engine.step()
            collect(results, step)
            tokens.append(step.stats.num_scheduled_tokens)
        known = prefix_caching and group == "b"
        assert tokens[:2] == ([4, 4] if known else [50, 4])
        assert results == {each.request_id: oracle(each) for each in children}


@in_both_ways
@pytest.mark.parametrize("params", [{"skip_reading_prefix_cache": True}, {"prompt_logprobs": 1}])
def test_a_request_can_compute_its_prompt_anew(params: dict[str, Any]):
    engine = small_engine()
    prompt = [n % VOCAB for n in range(12)]
    cached = []
    for number, more in enumerate([{}, params, {}]):
        engine.add(request(number, prompt, max_tokens=1, **more))
        cached.append(engine.step().outputs[0].num_cached_tokens)
    assert cached == [0, 0, 11]


@in_both_ways
def test_stats_follow_the_queue():
    engine = small_engine(max_num_seqs=1)
    engine.add(request(0, [1] * 20, max_tokens=2))
    engine.add(request(1, [2] * 20, max_tokens=1))
    stats = [engine.step().stats for _ in range(3)]
    assert [each.num_running for each in stats] == [1, 0, 0]
    assert [each.num_waiting for each in stats] == [1, 1, 0]
    assert [each.num_scheduled_tokens for each in stats] == [20, 1, 20]
    assert [each.num_free_blocks for each in stats] == [22, 24, 24]
    assert all(each.step_seconds > 0 for each in stats)


@in_both_ways
def test_stop_token_and_end_of_sequence_end_a_request():
    prompt = [3, 1, 4]
    tokens = oracle(request(0, prompt, max_tokens=40)).token_ids
    assert EOS in tokens
    at = tokens.index(EOS)
    stop = next(token for token in tokens[1:] if token not in (tokens[0], EOS))
    for params, expected, reason in [
        ({"ignore_eos": False}, tokens[: at + 1], ("stop", None)),
        ({"stop_token_ids": [stop]}, tokens[: tokens.index(stop) + 1], ("stop", stop)),
        ({"max_tokens": 3}, tokens[:3], ("length", None)),
    ]:
        engine = small_engine()
        result = run_to_end(engine, [(0, request(0, prompt, **{"max_tokens": 40, **params}))])["0"]
        assert result.token_ids == expected
        assert (result.finish_reason, result.stop_reason) == reason


@in_both_ways
def test_max_model_len_ends_a_request():
    result = run_to_end(small_engine(), [(0, request(0, [1] * 90, max_tokens=None))])["0"]
    assert len(result.token_ids) == MAX_MODEL_LEN - 90
    assert result.finish_reason == "length"


@in_both_ways
def test_abort_frees_blocks_at_once_and_says_nothing():
    engine = small_engine(max_num_seqs=1)
    for number in range(2):
        engine.add(request(number, [1] * 40))
    engine.step()
    engine.abort(["0", "1", "unknown"])
    assert not engine.has_work
    step = engine.step()
    assert not step.outputs
    assert step.stats.num_free_blocks == 24
    engine.add(request(0, [1] * 40))
    assert engine.step().outputs[0].token_ids == oracle(request(0, [1] * 40)).token_ids[:1]


@in_both_ways
def test_resumed_stream_that_is_complete_ends_without_a_token():
    full = oracle(request(0, [5], max_tokens=3)).token_ids
    for output, params, reason in [
        (full, {"max_tokens": 3}, ("length", None)),
        ([1, EOS], {"ignore_eos": False}, ("stop", None)),
        ([1, 7], {"stop_token_ids": [7]}, ("stop", 7)),
    ]:
        engine = small_engine()
        engine.add(request(0, [5], output, **params))
        (only,) = engine.step().outputs
        assert only.token_ids == []
        assert (only.finish_reason, only.stop_reason) == reason
        assert not engine.has_work


@in_both_ways
@pytest.mark.parametrize(
    "bad",
    [
        request(0, []),
        request(0, [VOCAB]),
        request(0, [-1]),
        request(0, [1], [VOCAB]),
        request(0, [1], temperature=1.0, seed=None),
        request(0, [1], logit_bias={VOCAB: 1.0}),
    ],
)
def test_a_request_that_can_not_run_ends_alone(bad: AddRequest):
    engine = small_engine()
    engine.add(bad)
    engine.add(request(1, [1]))
    assert engine.has_work
    first, second = engine.step().outputs
    assert (first.request_id, first.token_ids, first.finish_reason) == ("0", [], "abort")
    assert (second.request_id, second.finish_reason) == ("1", None)


@in_both_ways
def test_a_prompt_as_long_as_the_model_allows_gives_nothing():
    result = run_to_end(small_engine(), [(0, request(0, [1] * MAX_MODEL_LEN))])["0"]
    assert (result.token_ids, result.finish_reason) == ([], "length")


@in_both_ways
def test_a_request_that_outgrows_the_pool_ends_with_what_it_has():
    engine = small_engine(num_blocks=2)
    results = run_to_end(engine, [(0, request(0, [1] * 20, max_tokens=50)), (0, request(1, [1] * 33))])
    assert len(results["0"].token_ids) == 13
    assert results["0"].finish_reason == "length"
    assert results["0"].token_ids == oracle(request(0, [1] * 20, max_tokens=50)).token_ids[:13]
    assert results["1"] == Result(finish_reason="length")


@in_both_ways
def test_second_request_of_the_same_id_is_dropped():
    engine = small_engine()
    results = run_to_end(engine, [(0, request(0, [1])), (1, request(0, [2]))])
    assert results == {"0": oracle(request(0, [1]))}


def test_settings_without_chunks_need_room_for_the_longest_prompt():
    with pytest.raises(ValueError, match="max_num_batched_tokens must be at least max_model_len=96"):
        EngineSettings(SchedulerSettings(4, 64, 4, chunked_prefill=False), MAX_MODEL_LEN, VOCAB, 8)
