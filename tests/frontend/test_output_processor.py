"""Steps of an engine to outputs of requests; the text against the decoding of all tokens at once."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.fake_engine import EOS, VOCAB_SIZE, FakeEngine, byte_tokenizer, fake_tokens

from octavo.engine.messages import SequenceOutput, StepOutputs
from octavo.frontend.output_processor import OutputProcessor
from octavo.frontend.request import RequestBuilder
from octavo.frontend.request_state import RequestState
from octavo.outputs import CompletionOutput, RequestOutput
from octavo.request_options import RequestOptions
from octavo.sampling_params import RequestOutputKind, SamplingParams

TOKENIZER = byte_tokenizer()
CUMULATIVE, DELTA, FINAL_ONLY = RequestOutputKind


def builder() -> RequestBuilder:
    return RequestBuilder(TOKENIZER, vocab_size=VOCAB_SIZE, max_model_len=256, eos_token_ids=[EOS], seed=0)


def add(
    processor: OutputProcessor, engine: FakeEngine, params: SamplingParams, request_id: str = "r"
) -> RequestState:
    state, messages = processor.add(builder().build("prompt", params, request_id))
    for message in messages:
        engine.add(message)
    return state


def run(
    params: SamplingParams, script: str | list[int] | None = None, tokens_per_step: int = 1
) -> list[RequestOutput]:
    """The outputs that a reader who takes one after each step gets."""
    if isinstance(script, str):
        script = [*script.encode(), EOS]
    engine = FakeEngine(script=script, tokens_per_step=tokens_per_step)
    processor = OutputProcessor(TOKENIZER)
    state = add(processor, engine, params)
    outputs = []
    while len(processor):
        _, aborts = processor.process(engine.step())
        engine.abort(aborts)
        output = state.take()
        if output is not None:
            outputs.append(output)
    assert state.take() is None
    assert not engine.has_work
    return outputs


def joined(outputs: list[RequestOutput], index: int = 0) -> CompletionOutput:
    """The deltas of a completion as one."""
    parts = [part for output in outputs for part in output.outputs if part.index == index]
    assert [part.finished() for part in parts] == [False] * (len(parts) - 1) + [True]
    total = parts[-1]
    total.text = "".join(part.text for part in parts)
    total.token_ids = [token for part in parts for token in part.token_ids]
    if total.logprobs is not None:
        total.logprobs = [each for part in parts for each in part.logprobs or []]
    return total


@given(
    st.sampled_from([1, 2, 3]),
    st.integers(1, 20),
    st.lists(st.sampled_from(["e", "t", "ta", " a", "é", "in"]), max_size=2),
    st.booleans(),
    st.integers(1, 3),
)
def test_the_three_kinds_of_output_agree(
    n: int, max_tokens: int, stop: list[str], include: bool, tokens_per_step: int
) -> None:
    def outputs(kind: RequestOutputKind) -> list[RequestOutput]:
        params = SamplingParams(
            n=n,
            max_tokens=max_tokens,
            stop=stop,
            include_stop_str_in_output=include,
            seed=7,
            output_kind=kind,
            logprobs=0 if include else None,
        )
        return run(params, tokens_per_step=tokens_per_step)

    (final,) = outputs(FINAL_ONLY)
    cumulative = outputs(CUMULATIVE)
    deltas = outputs(DELTA)
    assert final.finished
    assert cumulative[-1].outputs == final.outputs
    assert [joined(deltas, index) for index in range(n)] == final.outputs
    for earlier, later in pairwise(cumulative):
        for before, after in zip(earlier.outputs, later.outputs, strict=True):
            assert after.text.startswith(before.text)
            assert after.token_ids[: len(before.token_ids)] == before.token_ids
    for child in final.outputs:
        tokens = fake_tokens(list(b"prompt"), 7 + child.index, max_tokens)
        assert child.token_ids == tokens[: len(child.token_ids)]
        text = TOKENIZER.decode(tokens)
        assert text.startswith(child.text)
        if child.finish_reason == "length":
            assert child.token_ids == tokens
            assert child.text == text
            assert not any(string in text for string in stop)
        else:
            assert child.finish_reason == "stop"
            assert isinstance(child.stop_reason, str)
            assert child.text.endswith(child.stop_reason) or not include
            full = child.text if include else child.text + child.stop_reason
            assert text.startswith(full)
            assert not any(string in full[:-1] for string in stop)


def test_no_token_after_a_stop_string_and_its_sequence_is_aborted() -> None:
    engine = FakeEngine(script=list(b"one, two, three"), tokens_per_step=6)
    processor = OutputProcessor(TOKENIZER)
    state = add(processor, engine, SamplingParams(stop=[", t"], max_tokens=15))
    _, aborts = processor.process(engine.step())
    (output,) = [state.take()]
    assert output is not None
    assert (output.finished, aborts) == (True, list(engine.sequences))
    (completion,) = output.outputs
    assert (completion.text, completion.stop_reason) == ("one", ", t")
    assert completion.token_ids == list(b"one, t")
    late, _ = processor.process(engine.step())
    assert (late, state.take(), completion.text) == ([], None, "one")


def test_a_sequence_that_the_engine_ended_with_the_stop_string_is_not_aborted() -> None:
    engine = FakeEngine(script=list(b"abc"))
    processor = OutputProcessor(TOKENIZER)
    state = add(processor, engine, SamplingParams(stop=["c"], max_tokens=3))
    aborts = [processor.process(engine.step())[1] for _ in range(3)]
    output = state.take()
    assert output is not None
    assert (output.outputs[0].finish_reason, output.outputs[0].stop_reason, aborts[-1]) == ("stop", "c", [])


def test_text_that_may_become_a_stop_string_is_held_until_it_can_not() -> None:
    outputs = run(SamplingParams(stop=["END"], output_kind=DELTA), "aENbENDc")
    assert [output.outputs[0].text for output in outputs] == ["a", "", "", "ENb", "", "", ""]
    assert run(SamplingParams(stop=["END"]), "aEN")[-1].outputs[0].text == "aEN"


def test_min_tokens_keeps_stop_strings_out() -> None:
    params = SamplingParams(stop=["a"], min_tokens=3, max_tokens=10)
    assert run(params, "abababab")[-1].outputs[0].text == "abab"


def test_the_token_that_stopped_is_shown_only_if_asked_for() -> None:
    def last(**params: object) -> CompletionOutput:
        return run(SamplingParams(skip_special_tokens=False, **params), "ab.c")[-1].outputs[0]  # type: ignore[arg-type]

    ended = last()
    assert (ended.text, ended.token_ids, ended.stop_reason) == ("ab.c", [*b"ab.c", EOS], None)
    assert last(include_stop_str_in_output=True).text == "ab.c<eos>"
    stopped = last(stop_token_ids=[ord(".")])
    assert (stopped.text, stopped.token_ids, stopped.stop_reason) == ("ab", [*b"ab."], ord("."))
    assert last(stop_token_ids=[ord(".")], include_stop_str_in_output=True).text == "ab."
    assert last(ignore_eos=True, max_tokens=4).finish_reason == "length"


def test_half_a_character_is_never_shown_until_the_end() -> None:
    params = SamplingParams(output_kind=DELTA, max_tokens=3)
    texts = [output.outputs[0].text for output in run(params, [0xC3, 0xA9, 0xC3])]
    assert texts == ["", "é", "\ufffd"]


def test_without_detokenizing_there_are_tokens_only() -> None:
    completion = run(SamplingParams(detokenize=False), "abc")[-1].outputs[0]
    assert (completion.text, completion.token_ids) == ("", [*b"abc", EOS])


def test_logprobs() -> None:
    outputs = run(SamplingParams(logprobs=2, prompt_logprobs=1, max_tokens=2, output_kind=DELTA), "xy")
    first, second = outputs
    assert first.prompt_logprobs is not None
    assert second.prompt_logprobs is None
    assert first.prompt_logprobs[0] is None
    assert [list(each or ()) for each in first.prompt_logprobs[1:]] == [
        [token, 65] for token in b"prompt"[1:]
    ]
    completion = joined(outputs)
    assert completion.logprobs is not None
    assert completion.cumulative_logprob == -2.0
    (own_id, own), (top_id, top) = completion.logprobs[0].items()
    assert (own_id, own.rank, own.decoded_token, own.logprob) == (ord("x"), 2, "x", -1.0)
    assert (top_id, top.rank, top.decoded_token, top.logprob) == (65, 1, "A", -0.5)
    none = run(SamplingParams(max_tokens=2), "xy")[-1].outputs[0]
    assert (none.logprobs, none.cumulative_logprob) == (None, None)


def test_children_have_seeds_of_their_own_and_the_prompt_is_scored_once() -> None:
    processor = OutputProcessor(TOKENIZER)
    engine = FakeEngine()
    add(processor, engine, SamplingParams(n=3, seed=2**63 - 2, prompt_logprobs=0))
    messages = [sequence.request for sequence in engine.sequences.values()]
    assert [message.params.seed for message in messages] == [2**63 - 2, 2**63 - 1, -(2**63)]
    assert [message.params.n for message in messages] == [1, 1, 1]
    assert [message.params.prompt_logprobs for message in messages] == [0, None, None]
    assert [message.request_id.split("#")[0] for message in messages] == ["0_r", "1_r", "2_r"]


def test_a_slow_reader_gets_all_that_it_missed_at_once() -> None:
    engine = FakeEngine(script=list(b"abcdef"))
    processor = OutputProcessor(TOKENIZER)
    state = add(processor, engine, SamplingParams(max_tokens=6, output_kind=DELTA))
    texts = []
    for count in (1, 3, 2):
        for _ in range(count):
            processor.process(engine.step())
        output = state.take()
        assert output is not None
        texts.append(output.outputs[0].text)
        assert state.take() is None
    assert texts == ["a", "bcd", "ef"]


def test_abort_ends_with_what_there_is() -> None:
    engine = FakeEngine(script=list(b"abEND"))
    processor = OutputProcessor(TOKENIZER)
    state = add(processor, engine, SamplingParams(n=2, stop=["END"]))
    for _ in range(4):
        processor.process(engine.step())
    states, sequence_ids = processor.abort(["r", "unknown"])
    assert (states, sequence_ids) == ([state], list(engine.sequences))
    output = state.take()
    assert output is not None
    assert output.finished
    assert [(each.text, each.finish_reason) for each in output.outputs] == [("abEN", "abort")] * 2
    assert processor.abort(["r"]) == ([], [])
    assert processor.process(engine.step()) == ([], [])


def test_outputs_of_an_aborted_request_never_reach_a_new_one_with_its_id() -> None:
    engine = FakeEngine(script=list(b"abcd"))
    processor = OutputProcessor(TOKENIZER)
    add(processor, engine, SamplingParams())
    on_its_way = engine.step()
    engine.abort(processor.abort(["r"])[1])
    state = add(processor, engine, SamplingParams())
    assert processor.process(on_its_way) == ([], [])
    processor.process(engine.step())
    output = state.take()
    assert output is not None
    assert output.outputs[0].text == "a"


def test_an_id_that_is_in_use_is_refused() -> None:
    processor = OutputProcessor(TOKENIZER)
    add(processor, FakeEngine(), SamplingParams())
    with pytest.raises(ValueError, match="request_id 'r' is in use"):
        add(processor, FakeEngine(), SamplingParams())


@given(st.integers(0, 12), st.integers(1, 2), st.sampled_from(RequestOutputKind))
def test_a_resubmitted_stream_goes_on_as_it_would_have(before: int, n: int, kind: RequestOutputKind) -> None:
    def outputs(crash_at: int | None) -> list[RequestOutput]:
        engine = FakeEngine()
        processor = OutputProcessor(TOKENIZER)
        params = SamplingParams(n=n, seed=3, max_tokens=12, stop=["ta"], output_kind=kind, logprobs=0)
        state = add(processor, engine, params)
        outputs = []
        step = 0
        while len(processor):
            if step == crash_at:
                engine = FakeEngine()
                for message in processor.resubmit(state):
                    engine.add(message)
            engine.abort(processor.process(engine.step())[1])
            step += 1
            output = state.take()
            if output is not None:
                outputs.append(output)
        return outputs

    crashed, whole = outputs(before), outputs(None)
    assert [each.outputs for each in crashed] == [each.outputs for each in whole]
    assert [each.num_cached_tokens for each in crashed] == [each.num_cached_tokens for each in whole]


@pytest.mark.parametrize("kind", RequestOutputKind)
def test_the_best_are_given_at_the_end(kind: RequestOutputKind) -> None:
    [best] = run(SamplingParams(seed=3, n=2, best_of=6, output_kind=kind))
    assert best.finished
    assert [each.index for each in best.outputs] == [0, 1]
    assert [each.logprobs for each in best.outputs] == [None, None]
    [whole] = run(SamplingParams(seed=3, n=6, logprobs=0, output_kind=FINAL_ONLY))
    ranked = sorted(
        whole.outputs, key=lambda each: (each.cumulative_logprob or 0) / len(each.token_ids), reverse=True
    )
    assert [each.token_ids for each in best.outputs] == [each.token_ids for each in ranked[:2]]
    assert [each.text for each in best.outputs] == [each.text for each in ranked[:2]]


def test_sequences_of_one_request_are_a_group() -> None:
    def groups(**params: int) -> list[str]:
        processor, engine = OutputProcessor(TOKENIZER), FakeEngine()
        add(processor, engine, SamplingParams(**params))
        return [sequence.request.options.group for sequence in engine.sequences.values()]

    assert groups() == [""]
    assert len(set(groups(n=3))) == 1
    assert groups(n=3)[0]
    assert len(groups(n=1, best_of=4)) == 4


def test_only_unfinished_children_are_resubmitted_with_the_tokens_that_they_have() -> None:
    engine = FakeEngine()
    processor = OutputProcessor(TOKENIZER)
    state = add(processor, engine, SamplingParams(n=2))
    done, still_open = engine.sequences
    stats = engine.step().stats
    outputs = [SequenceOutput(done, [65], "stop"), SequenceOutput(still_open, [66])]
    processor.process(StepOutputs(outputs, stats))
    assert [(each.request_id, each.output_token_ids) for each in processor.resubmit(state)] == [
        (still_open, [66])
    ]
    processor.process(StepOutputs([SequenceOutput(still_open, [67], "length")], stats))
    assert processor.resubmit(state) == []


def test_options_are_resubmitted_whole() -> None:
    options = RequestOptions(priority=3, cache_salt="salt", user="someone", group="group")
    processor = OutputProcessor(TOKENIZER)
    state, first = processor.add(builder().build("prompt", SamplingParams(seed=1), "r", options))
    assert [each.options for each in (*first, *processor.resubmit(state))] == [options, options]


def test_metrics_and_cached_tokens_come_from_the_first_tokens() -> None:
    processor = OutputProcessor(TOKENIZER)
    engine = FakeEngine()
    state = add(processor, engine, SamplingParams())
    (sequence_id,) = engine.sequences
    stats = engine.step().stats
    processor.process(StepOutputs([SequenceOutput(sequence_id, [65], num_cached_tokens=32)], stats))
    first = state.metrics.first_token_time
    processor.process(StepOutputs([SequenceOutput(sequence_id, [66], "stop", num_cached_tokens=48)], stats))
    output = state.take()
    assert output is not None
    assert output.num_cached_tokens == 32
    assert output.metrics is not None
    assert first is not None
    assert output.metrics.first_token_time == first
    assert output.metrics.finished_time is not None
    assert output.metrics.arrival_time <= first <= output.metrics.finished_time
