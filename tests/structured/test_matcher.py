"""Masks: llguidance's own, at every position and for every stream that is resumed; and what they keep out."""

from __future__ import annotations

import llguidance
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from octavo import SamplingParams, StructuredOutputsParams
from octavo.sampling.sampler import ReferenceSampler, Sampler
from octavo.sampling.state import SamplingState
from octavo.structured.compiler import GrammarCompiler
from octavo.structured.grammar import grammar_of
from octavo.structured.matcher import Matcher
from octavo.structured.vocabulary import grammar_vocabulary, vocabulary_of
from octavo.tokenizer.tokenizer import Tokenizer

EOS = [2, 0]
FORMS = [
    StructuredOutputsParams(regex=r"[a-c]{0,5}(é|\d+)"),
    StructuredOutputsParams(choice=["yes", "no", "yesterday"]),
    StructuredOutputsParams(json_object=True),
    StructuredOutputsParams(
        json={
            "type": "object",
            "properties": {"a": {"type": "array", "items": {"type": "integer"}}, "b": {"enum": ["x", None]}},
            "required": ["a"],
        }
    ),
    StructuredOutputsParams(grammar='root ::= "(" root ")" | [xyz]+'),
]


@pytest.fixture(scope="module", params=["reference", "native"])
def sampler(request: pytest.FixtureRequest) -> Sampler:
    if request.param == "reference":
        return ReferenceSampler()
    native = pytest.importorskip("octavo._native")
    from octavo.runtime.native_sampler import NativeSampler

    return NativeSampler(native.Program(2, native.isas()[-1]).sampler())


@pytest.fixture(scope="module")
def vocabulary(tokenizer: Tokenizer) -> llguidance.LLTokenizer:
    return grammar_vocabulary(vocabulary_of(tokenizer, tokenizer.vocab_size + 45), EOS)


def as_ids(mask: NDArray[np.uint32]) -> NDArray[np.int64]:
    return np.flatnonzero(np.unpackbits(mask.view(np.uint8), bitorder="little"))


@settings(max_examples=15, deadline=None)
@given(form=st.sampled_from(FORMS), seed=st.integers(0, 99), min_tokens=st.integers(0, 9), data=st.data())
def test_a_token_is_one_that_llguidance_allows(
    compiler: GrammarCompiler,
    tokenizer: Tokenizer,
    vocabulary: llguidance.LLTokenizer,
    sampler: Sampler,
    form: StructuredOutputsParams,
    seed: int,
    min_tokens: int,
    data: st.DataObject,
) -> None:
    size = tokenizer.vocab_size + 45
    own = llguidance.LLMatcher(vocabulary, grammar_of(form))
    params = SamplingParams(
        structured_outputs=form,
        seed=seed,
        temperature=data.draw(st.sampled_from([0.0, 1.0])),
        min_tokens=min_tokens,
        max_tokens=20,
        logprobs=data.draw(st.sampled_from([None, 2])),
    )
    state = SamplingState(params, [1], [], EOS, size)
    matcher = compiler.submit(form).result()
    output: list[int] = []
    random = np.random.default_rng(seed)
    while len(output) < 20:
        if data.draw(st.integers(0, 4)) == 0:  # as after a restart of the engine
            matcher = compiler.submit(form, output).result()
            state = SamplingState(params, [1], output, EOS, size)
        mask = matcher.mask()
        assert mask.tobytes() == own.compute_bitmask()
        allowed = as_ids(mask)
        state.restrict(mask)
        logits = random.normal(0, 5, (1, size)).astype(np.float32)
        logits[0, EOS] += 8
        [sampled] = sampler.sample(logits, [state])
        token_id = sampled.token_id
        assert token_id in allowed
        going_on = np.setdiff1d(allowed, EOS)
        if token_id in EOS:
            assert len(output) >= min_tokens or not len(going_on)
            assert own.is_accepting()
            return
        if params.greedy:
            kept = going_on if len(output) < min_tokens and len(going_on) else allowed
            assert token_id == kept[logits[0, kept].argmax()]
        for each in (matcher, state):
            each.append(token_id)
        assert own.consume_token(token_id)
        output.append(token_id)
        assert not matcher.failure


def test_a_token_that_is_not_allowed_is_a_failure(compiler: GrammarCompiler) -> None:
    matcher = compiler.submit(StructuredOutputsParams(regex="a")).result()
    assert isinstance(matcher, Matcher)
    matcher.append(2)
    assert matcher.failure
    with pytest.raises(ValueError, match=r"^structured_outputs: the tokens do not fit the grammar"):
        compiler.submit(StructuredOutputsParams(regex="a"), [2]).result()
