"""The engine with requests for structured outputs among free ones, on a model that is a hash."""

from __future__ import annotations

import dataclasses
import functools
import json
import re
import threading
from concurrent.futures import Future
from typing import ClassVar

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from support.batch_invariance import Result, check_batch_invariance, engine_settings, run_alone, run_to_end
from support.batch_invariance import requests as free_requests
from support.fake_engine import EOS, VOCAB_SIZE, byte_tokenizer
from support.hash_executable import HashExecutable

from octavo import SamplingParams, StructuredOutputsParams
from octavo.engine.build import step_limits
from octavo.engine.engine import Engine, EngineSettings
from octavo.engine.messages import AddRequest
from octavo.engine.scheduling.scheduler import SchedulerSettings
from octavo.runtime.backend import Batch
from octavo.structured.compiler import GrammarCompiler
from octavo.structured.matcher import Matcher

MAX_MODEL_LEN = 96
SIZES = {"vocab_size": VOCAB_SIZE, "max_model_len": MAX_MODEL_LEN}
SETTINGS = EngineSettings(SchedulerSettings(8, 64, 16), MAX_MODEL_LEN, VOCAB_SIZE, num_blocks=48)
FORMS: list[tuple[StructuredOutputsParams, str]] = [
    (StructuredOutputsParams(regex="[a-c]{2,9}x?"), "[a-c]{2,9}x?"),
    (StructuredOutputsParams(choice=["yes", "no", "yesterday"]), "yes|no|yesterday"),
    (StructuredOutputsParams(grammar='root ::= "(" root ")" | "x" | "yy"'), r"\(*(x|yy)\)*"),
]


@functools.cache
def compiler() -> GrammarCompiler:
    return GrammarCompiler(byte_tokenizer, VOCAB_SIZE, [EOS])


def make_engine(engine_settings: EngineSettings, grammars: GrammarCompiler | None = None) -> Engine:
    executable = HashExecutable(
        VOCAB_SIZE,
        step_limits(engine_settings.scheduler, engine_settings.max_model_len, engine_settings.vocab_size),
    )
    return Engine(executable, engine_settings, grammars=grammars or compiler())


def request(number: int, form: StructuredOutputsParams | None, **params) -> AddRequest:
    params = {"temperature": 1.0, "seed": number, "max_tokens": 40, **params}
    return AddRequest(
        str(number),
        list(b"a prompt"),
        SamplingParams(structured_outputs=form, **params),
        [EOS],
        float(number),
    )


def text(result: Result) -> str:
    ended = result.finish_reason == "stop"
    return bytes(result.token_ids[:-1] if ended else result.token_ids).decode()


def test_steps_are_not_run_ahead_of_what_may_come_next() -> None:
    """The mask needs the token before."""

    class Recorder(HashExecutable):
        threads: ClassVar[set[threading.Thread]] = set()

        def run(self, batch: Batch) -> NDArray[np.float32]:
            self.threads.add(threading.current_thread())
            return super().run(batch)

    executable = Recorder(
        VOCAB_SIZE, step_limits(SETTINGS.scheduler, SETTINGS.max_model_len, SETTINGS.vocab_size)
    )
    engine = Engine(executable, dataclasses.replace(SETTINGS, async_scheduling=True), grammars=compiler())
    run_to_end(engine, [(0, request(0, FORMS[0][0]))])
    assert len(executable.threads) == 1
    run_to_end(engine, [(0, request(1, None))])
    assert len(executable.threads) == 2


@settings(max_examples=25, deadline=None)
@given(batch=free_requests(most=12, **SIZES), engine=engine_settings(**SIZES), data=st.data())
def test_batch_invariance_with_free_requests(
    batch: list[AddRequest], engine: EngineSettings, data: st.DataObject
) -> None:
    """Alone and together, chunked, preempted, aborted, and resumed after some tokens."""
    mixed = []
    for each in batch:
        form = data.draw(st.sampled_from([None, *(form for form, _ in FORMS)]))
        params = msgspec.structs.replace(each.params, ignore_eos=each.params.ignore_eos and form is None)
        params.structured_outputs = form
        if form is not None:
            params.bad_words_token_ids = []  # They may forbid the only tokens that the form allows.
        mixed.append(msgspec.structs.replace(each, params=params, eos_token_ids=[EOS]))

    def alone(each: AddRequest) -> Result:
        return run_alone(make_engine, each, MAX_MODEL_LEN, VOCAB_SIZE)

    check_batch_invariance(make_engine, alone, engine, mixed, data)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_an_output_has_its_form_and_ends_where_that_does(temperature: float) -> None:
    batch = [request(i, FORMS[i % 3][0], temperature=temperature) for i in range(12)]
    results = run_to_end(make_engine(SETTINGS), [(i, each) for i, each in enumerate(batch)])
    for i in range(12):
        result = results[str(i)]
        assert re.fullmatch(FORMS[i % 3][1], text(result)) or result.finish_reason == "length"
        assert result.finish_reason == "length" or result.token_ids[-1] == EOS
    assert sum(result.finish_reason == "stop" for result in results.values()) >= 8


def test_the_end_of_the_form_goes_before_min_tokens() -> None:
    batch = [
        request(0, StructuredOutputsParams(choice=["a", "b"]), min_tokens=9),
        request(1, StructuredOutputsParams(regex="a+"), min_tokens=9),
    ]
    results = run_to_end(make_engine(SETTINGS), [(0, each) for each in batch])
    assert (len(results["0"].token_ids), results["0"].finish_reason) == (2, "stop")
    assert len(results["1"].token_ids) >= 9


def test_what_leaves_no_token_ends_alone() -> None:
    batch = [
        request(0, StructuredOutputsParams(choice=["a"]), allowed_token_ids=[98]),
        request(1, StructuredOutputsParams(choice=["a"])),
        request(2, None, max_tokens=3),
    ]
    results = run_to_end(make_engine(SETTINGS), [(0, each) for each in batch])
    assert (results["0"].token_ids, results["0"].finish_reason) == ([], "abort")
    assert results["1"].token_ids == [97, EOS]
    assert len(results["2"].token_ids) == 3


def test_tokens_of_another_form_can_not_be_gone_on_with() -> None:
    resumed = msgspec.structs.replace(
        request(0, StructuredOutputsParams(choice=["a"])), output_token_ids=[98]
    )
    results = run_to_end(make_engine(SETTINGS), [(0, resumed), (0, request(1, None, max_tokens=3))])
    assert (results["0"].token_ids, results["0"].finish_reason) == ([], "abort")
    assert len(results["1"].token_ids) == 3


def test_without_a_compiler_there_is_no_structured_output() -> None:
    executable = HashExecutable(
        VOCAB_SIZE, step_limits(SETTINGS.scheduler, SETTINGS.max_model_len, SETTINGS.vocab_size)
    )
    results = run_to_end(Engine(executable, SETTINGS), [(0, request(0, FORMS[0][0]))])
    assert results["0"].finish_reason == "abort"


class SlowCompiler(GrammarCompiler):
    """Compiles when it is let."""

    def __init__(self) -> None:
        super().__init__(byte_tokenizer, VOCAB_SIZE, [EOS])
        self.go = threading.Event()

    def _make(self, *arguments) -> Matcher:
        self.go.wait()
        return super()._make(*arguments)


def test_others_go_on_while_a_grammar_compiles() -> None:
    slow = SlowCompiler()
    engine = make_engine(SETTINGS, slow)
    engine.add(request(0, FORMS[0][0]))
    engine.add(request(1, None, max_tokens=5, ignore_eos=True))
    outputs = [engine.step() for _ in range(5)]
    assert [len(step.outputs) for step in outputs] == [1] * 5
    assert all(each.request_id == "1" for step in outputs for each in step.outputs)
    assert outputs[-1].stats.num_waiting == 1
    assert engine.has_work
    assert not engine.step().outputs  # it waits, and not for long
    slow.go.set()
    results = run_to_end(engine, [])
    assert re.fullmatch(FORMS[0][1], text(results["0"]))


def test_one_that_is_aborted_while_its_grammar_compiles_is_forgotten() -> None:
    slow = SlowCompiler()
    engine = make_engine(SETTINGS, slow)
    engine.add(request(0, FORMS[0][0]))
    engine.step()
    engine.abort(["0"])
    assert not engine.has_work
    slow.go.set()
    engine.add(request(0, FORMS[1][0]))
    assert re.fullmatch(FORMS[1][1], text(run_to_end(engine, [])["0"]))


def test_log_probabilities_are_the_models_own() -> None:
    form = StructuredOutputsParams(choice=["yes", "no"])
    (result,) = run_to_end(make_engine(SETTINGS), [(0, request(0, form, logprobs=1))]).values()
    (free,) = run_to_end(make_engine(SETTINGS), [(0, request(0, None, logprobs=1, max_tokens=1))]).values()
    assert result.logprobs[0].token_ids[1] == free.logprobs[0].token_ids[1]
    assert [each.token_ids[0] for each in result.logprobs] == result.token_ids


def test_a_request_crosses_to_another_process_as_it_is() -> None:
    schema = json.loads('{"type": "object", "properties": {"b": {}, "a": {}}}')
    sent = request(0, StructuredOutputsParams(json=schema))
    got = msgspec.msgpack.decode(msgspec.msgpack.encode(sent), type=AddRequest)
    assert got == sent
    future: Future[Matcher] = compiler().submit(got.params.structured_outputs)
    assert not future.result().failure
