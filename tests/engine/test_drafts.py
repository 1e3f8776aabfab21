"""Drafts, right and wrong ones, change neither a token nor a log probability: they only save steps."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable

import msgspec
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st
from support.batch_invariance import (
    EOS,
    Result,
    check_batch_invariance,
    engine_settings,
    requests,
    run_alone,
    run_to_end,
)
from support.fake_engine import EOS as BYTE_EOS
from support.fake_engine import VOCAB_SIZE, byte_tokenizer
from support.hash_executable import HashExecutable
from support.kv_layers import groups_of
from support.random_llama import SPEC, random_llama
from support.scheduler_rig import make_sequence

from octavo import SamplingParams, StructuredOutputsParams
from octavo.engine.build import step_limits
from octavo.engine.engine import Engine, EngineSettings
from octavo.engine.messages import AddRequest, StepOutputs
from octavo.engine.outputs import append
from octavo.engine.scheduling.scheduler import SchedulerSettings
from octavo.engine.sequence import Sequence
from octavo.formats.tensor import Encoding
from octavo.model.decoder import trace
from octavo.runtime.backend import Executable
from octavo.runtime.kv_cache import KVCacheSpec
from octavo.sampling.sampler import SampledToken
from octavo.structured.compiler import GrammarCompiler

VOCAB, MAX_MODEL_LEN = 19, 96
SIZES = {"vocab_size": VOCAB, "max_model_len": MAX_MODEL_LEN}
ROOMY = EngineSettings(SchedulerSettings(8, 256, 64), MAX_MODEL_LEN, VOCAB, num_blocks=64)

Guess = Callable[[Sequence], list[int]]


class DraftingEngine(Engine):
    """Asks `guess` for the drafts of each running sequence before a step, and checks its blocks after it."""

    def __init__(
        self,
        executable: Executable,
        engine_settings: EngineSettings,
        guess: Guess,
        grammars: GrammarCompiler | None = None,
    ) -> None:
        super().__init__(executable, engine_settings, grammars=grammars)
        self._guess = guess
        self.num_accepted = self.num_steps = 0

    def step(self) -> StepOutputs:
        for sequence in self._scheduler.running:
            sequence.drafts = self._guess(sequence)
        outputs = super().step()
        self._scheduler.check_blocks()
        self.num_steps += 1
        self.num_accepted += sum(max(0, len(each.token_ids) - 1) for each in outputs.outputs)
        return outputs


class Drafter:
    """Knows what each request will give, and says so, or part of it, or something else, or nothing."""

    def __init__(self, seed: int, vocab_size: int, stops: list[int]) -> None:
        self.known: dict[str, list[int]] = {}
        self._random = random.Random(seed)
        self._vocab_size = vocab_size
        self._stops = stops

    def learns(self, alone: Callable[[AddRequest], Result]) -> Callable[[AddRequest], Result]:
        def run(request: AddRequest) -> Result:
            result = alone(request)
            self.known[request.request_id] = request.prompt_token_ids + result.token_ids
            return result

        return run

    def __call__(self, sequence: Sequence) -> list[int]:
        draw = self._random
        count, kind = draw.randrange(1, 7), draw.random()
        right = self.known[sequence.request_id][len(sequence) :][:count]
        wrong = [draw.choice([*self._stops, draw.randrange(self._vocab_size)]) for _ in range(count)]
        if kind < 0.2:
            return []
        if kind < 0.5:
            return right + wrong  # Goes on after the end.
        cut = draw.randrange(count)
        return right[:cut] + wrong if kind < 0.9 else wrong


def check(
    make: Callable[[EngineSettings, Guess], DraftingEngine],
    alone: Callable[[AddRequest], Result],
    engine: EngineSettings,
    batch: list[AddRequest],
    data: st.DataObject,
    vocab_size: int = VOCAB,
) -> None:
    """What each request gives with drafts, against what it gives `alone` without."""
    stops = [*{token for each in batch for token in (*each.params.stop_token_ids, *each.eos_token_ids)}]
    drafter = Drafter(data.draw(st.integers(0, 1000), label="drafter"), vocab_size, stops)
    made: list[DraftingEngine] = []

    def factory(engine_settings: EngineSettings) -> Engine:
        made.append(make(engine_settings, drafter))
        return made[-1]

    check_batch_invariance(factory, drafter.learns(alone), engine, batch, data)
    event(f"accepted: {made[0].num_accepted > 0}")
    event(f"preempted: {made[0]._scheduler.num_preemptions > 0}")


@pytest.mark.parametrize("windows", [(0,), (21,), (0, 21), (0, 0, 40, 3)])
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_drafts_change_nothing(windows: tuple[int, ...], data: st.DataObject) -> None:
    """Whatever the KV groups: chunked, preempted, cached, aborted, resumed, and side by side in a group."""
    groups = groups_of(windows)
    engine = data.draw(engine_settings(**SIZES, groups=groups))
    batch = data.draw(requests(most=16, **SIZES))

    def executable(engine_settings: EngineSettings) -> HashExecutable:
        limits = step_limits(engine_settings.scheduler, MAX_MODEL_LEN, VOCAB)
        return HashExecutable(VOCAB, limits, windows)

    def plain(engine_settings: EngineSettings) -> Engine:
        return Engine(executable(engine_settings), engine_settings)

    check(
        lambda each, guess: DraftingEngine(executable(each), each, guess),
        lambda each: run_alone(plain, each, MAX_MODEL_LEN, VOCAB, groups),
        engine,
        batch,
        data,
    )


FORMS = [
    StructuredOutputsParams(regex="[a-c]{2,9}x?"),
    StructuredOutputsParams(choice=["yes", "no", "yesterday"]),
    StructuredOutputsParams(grammar='root ::= "(" root ")" | "x" | "yy"'),
]


@functools.cache
def compiler() -> GrammarCompiler:
    return GrammarCompiler(byte_tokenizer, VOCAB_SIZE, [BYTE_EOS])


@settings(max_examples=30, deadline=None)
@given(
    batch=requests(most=8, vocab_size=VOCAB_SIZE, max_model_len=MAX_MODEL_LEN),
    engine=engine_settings(vocab_size=VOCAB_SIZE, max_model_len=MAX_MODEL_LEN),
    data=st.data(),
)
def test_a_grammar_is_followed_token_by_token(
    batch: list[AddRequest], engine: EngineSettings, data: st.DataObject
) -> None:
    mixed = []
    for each in batch:
        form = data.draw(st.sampled_from([None, *FORMS]))
        params = each.params
        if form is not None:
            # Without what may forbid the only tokens that a grammar allows.
            params = SamplingParams(
                temperature=params.temperature,
                seed=params.seed,
                max_tokens=params.max_tokens,
                logprobs=params.logprobs,
                repetition_penalty=params.repetition_penalty,
                structured_outputs=form,
            )
        mixed.append(msgspec.structs.replace(each, params=params, eos_token_ids=[BYTE_EOS]))

    def executable(engine_settings: EngineSettings) -> HashExecutable:
        return HashExecutable(VOCAB_SIZE, step_limits(engine_settings.scheduler, MAX_MODEL_LEN, VOCAB_SIZE))

    def plain(engine_settings: EngineSettings) -> Engine:
        return Engine(executable(engine_settings), engine_settings, grammars=compiler())

    check(
        lambda each, guess: DraftingEngine(executable(each), each, guess, compiler()),
        lambda each: run_alone(plain, each, MAX_MODEL_LEN, VOCAB_SIZE),
        engine,
        mixed,
        data,
        VOCAB_SIZE,
    )


def compile_llama(engine_settings: EngineSettings) -> Executable:
    native = pytest.importorskip("octavo.runtime.native", exc_type=ImportError)
    program = trace(SPEC)
    return native.NativeBackend(threads=2).compile(
        program,
        random_llama(Encoding.Q8_0, MAX_MODEL_LEN).weights,
        KVCacheSpec(program.cache_layers, "int16"),
        step_limits(engine_settings.scheduler, MAX_MODEL_LEN, SPEC.vocab_size),
    )


@settings(max_examples=12, deadline=None)
@given(
    batch=requests(most=8, vocab_size=SPEC.vocab_size, max_model_len=MAX_MODEL_LEN),
    engine=engine_settings(vocab_size=SPEC.vocab_size, max_model_len=MAX_MODEL_LEN),
    data=st.data(),
)
def test_the_native_backend_gives_the_same_bits(
    batch: list[AddRequest], engine: EngineSettings, data: st.DataObject
) -> None:
    def plain(engine_settings: EngineSettings) -> Engine:
        return Engine(compile_llama(engine_settings), engine_settings)

    check(
        lambda each, guess: DraftingEngine(compile_llama(each), each, guess),
        lambda each: run_alone(plain, each, MAX_MODEL_LEN, SPEC.vocab_size),
        engine,
        batch,
        data,
        SPEC.vocab_size,
    )


def request(number: int = 0, **params) -> AddRequest:
    params = {"temperature": 1.0, "seed": number, "max_tokens": 40, "ignore_eos": True, **params}
    return AddRequest(str(number), [number + 1] * 20, SamplingParams(**params), [EOS], float(number))


def make(guess: Guess, engine_settings: EngineSettings = ROOMY) -> DraftingEngine:
    limits = step_limits(engine_settings.scheduler, MAX_MODEL_LEN, VOCAB)
    return DraftingEngine(HashExecutable(VOCAB, limits), engine_settings, guess)


def tokens_of(each: AddRequest) -> list[int]:
    return run_to_end(make(lambda sequence: []), [(0, each)])["0"].token_ids


def oracle(tokens: list[int], count: int, prompt_tokens: int = 20) -> Guess:
    return lambda sequence: tokens[len(sequence) - prompt_tokens :][:count]


def test_right_drafts_save_steps() -> None:
    tokens = tokens_of(request())
    engine = make(oracle(tokens, 4))
    result = run_to_end(engine, [(0, request())])["0"]
    assert result.token_ids == tokens
    assert engine.num_steps == 1 + 8  # The prompt's, then 39 tokens: 7 times 5, and 4.
    assert engine.num_accepted == 7 * 4 + 3


def test_wrong_drafts_cost_no_step_and_leave_nothing_in_the_cache() -> None:
    tokens = tokens_of(request())
    engine = make(lambda sequence: [(each + 1) % VOCAB for each in oracle(tokens, 40)(sequence)])
    result = run_to_end(engine, [(0, request())])["0"]
    assert result.token_ids == tokens
    assert (engine.num_steps, engine.num_accepted) == (40, 0)
    assert len(engine._prefix_cache) == (20 + 39) // 16
    held = [known.token_ids.tolist() for known in engine._prefix_cache.known if known is not None]
    whole = [1] * 20 + tokens[:39]
    assert sorted(held) == sorted(whole[start : start + 16] for start in range(0, 59, 16))


def test_a_stop_token_among_the_drafts_ends_the_sequence_there() -> None:
    tokens = tokens_of(request())
    stop = next(each for index, each in enumerate(tokens) if index > 4 and each not in tokens[:index])
    at = tokens.index(stop)
    result = run_to_end(make(oracle(tokens, 40)), [(0, request(stop_token_ids=[stop]))])["0"]
    assert result == Result(tokens[: at + 1], finish_reason="stop", stop_reason=stop)


def test_drafts_do_not_outlast_max_tokens() -> None:
    tokens = tokens_of(request())
    engine = make(oracle(tokens, 40))
    result = run_to_end(engine, [(0, request(max_tokens=7))])["0"]
    assert result == Result(tokens[:7], finish_reason="length")
    assert (engine.num_steps, engine.num_accepted) == (2, 5)


def test_nothing_gives_way_to_drafts() -> None:
    """Two sequences fill the pool but for a block: a draft that needs another one is not run."""
    tokens = {
        each.request_id: run_to_end(make(lambda sequence: []), [(0, each)])[each.request_id].token_ids
        for each in (request(0), request(1))
    }
    scheduler = SchedulerSettings(8, 256, 64)
    engine = make(
        lambda sequence: tokens[sequence.request_id][len(sequence) - 20 :][:30],
        EngineSettings(scheduler, MAX_MODEL_LEN, VOCAB, num_blocks=8),
    )
    results = run_to_end(engine, [(0, request(0)), (0, request(1))])
    assert {name: result.token_ids for name, result in results.items()} == tokens
    assert engine.num_accepted > 30
    assert engine._scheduler.num_preemptions == 0


def test_a_step_has_no_more_rows_of_logits_for_drafts() -> None:
    """Five sequences, and three rows beyond one for each."""
    scheduler = SchedulerSettings(5, 256, 8)
    engine = make(lambda sequence: [3] * 6, EngineSettings(scheduler, MAX_MODEL_LEN, VOCAB, num_blocks=64))
    for number in range(5):
        engine.add(request(number))
    engine.step()
    assert engine.step().stats.num_scheduled_tokens == 8


def test_drafts_take_what_prompts_leave_of_a_step() -> None:
    scheduler = SchedulerSettings(4, 16, 16)
    engine = make(lambda sequence: [3] * 6, EngineSettings(scheduler, MAX_MODEL_LEN, VOCAB, num_blocks=64))
    engine.add(msgspec.structs.replace(request(0), prompt_token_ids=[1]))
    engine.step()
    engine.add(msgspec.structs.replace(request(1), prompt_token_ids=[2] * 13))
    tokens = []
    for _ in range(2):
        stats = engine.step().stats
        tokens.append(stats.num_scheduled_tokens)
    assert tokens == [1 + 13 + 2, 7 + 7]


def test_log_probabilities_come_with_each_token_of_a_step() -> None:
    plain = run_to_end(make(lambda sequence: []), [(0, request(logprobs=2))])["0"]
    drafted = run_to_end(make(oracle(plain.token_ids, 5)), [(0, request(logprobs=2))])["0"]
    assert len(drafted.logprobs) == 40
    assert drafted == plain


class OneTokenMatcher:
    """Allows one token and no more."""

    failure = ""

    def __init__(self) -> None:
        self._count = 0

    def append(self, token_id: int) -> None:
        self._count += 1
        if self._count > 1:
            self.failure = "no more tokens"


def test_what_a_grammar_allowed_before_it_failed_is_given() -> None:
    sequence = make_sequence(0, [1, 2, 3], 10)
    sequence.matcher = OneTokenMatcher()
    output = append(sequence, SampledToken(7), [SampledToken(8)])
    assert (output.token_ids, output.finish_reason) == ([7], "abort")
