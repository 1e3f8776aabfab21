"""The model of a step's time: right where the machine is as it supposes, sane where it is not."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from octavo.engine.step_time import StepTime, prompt_pairs

positive = st.floats(1e-6, 1e-2)


def steps(rng: random.Random, count: int):
    """(tokens, pairs of decodes, pairs of prompts) of steps, half of them with a chunk of a prompt."""
    for number in range(count):
        decodes = rng.randint(1, 64)
        pairs = decodes * rng.randint(1, 4000)
        if number % 2:
            yield decodes, pairs, 0
        else:
            chunk, context = rng.randint(1, 500), rng.randint(0, 8000)
            yield decodes + chunk, pairs, prompt_pairs(chunk, context)


costs = st.tuples(
    positive, positive, positive.map(lambda each: each / 1e4), positive.map(lambda each: each / 1e4)
)


@given(costs, st.integers(0, 9))
def test_a_machine_that_follows_the_model_is_known_exactly(costs, seed: int):
    base, per_token, per_pair, per_prompt_pair = costs
    model = StepTime()
    for tokens, pairs, prompt in steps(random.Random(seed), 100):
        seconds = base + per_token * tokens + per_pair * pairs + per_prompt_pair * prompt
        model.observe(tokens, pairs + prompt, seconds, with_prompt=prompt > 0, num_prompt_pairs=prompt)
    for tokens, pairs in [(1, 100), (32, 32_000), (64, 250_000)]:
        expected = base + per_token * tokens + per_pair * pairs
        assert model.seconds(tokens, pairs) == pytest.approx(expected, rel=0.02, abs=0.02 * base)
    expected = per_token * 100 + per_prompt_pair * prompt_pairs(100, 4000)
    assert model.prompt_seconds(100, 4000) == pytest.approx(expected, rel=0.02, abs=0.02 * base)


@given(costs, st.floats(0, 1), st.integers(0, 32_768))
def test_tokens_within_is_the_inverse_of_prompt_seconds(costs, seconds: float, context: int):
    base, per_token, _, per_pair = costs
    model = StepTime()
    for tokens in range(1, 20):
        pairs = tokens * tokens * 50
        model.observe(
            tokens,
            pairs,
            base + per_token * tokens + per_pair * pairs,
            with_prompt=True,
            num_prompt_pairs=pairs,
        )
    count = model.tokens_within(seconds, context)
    assert count >= 0
    assert model.prompt_seconds(math.floor(count), context) <= seconds * (1 + 1e-9)
    assert model.prompt_seconds(math.ceil(count) + 1, context) >= seconds


def test_nothing_is_known_before_eight_steps():
    model = StepTime()
    for _ in range(7):
        model.observe(16, 160, 0.01, with_prompt=False)
    assert not model.known
    model.observe(16, 160, 0.01, with_prompt=True)
    assert model.known
    assert model.seconds(16, 160) == pytest.approx(0.01, rel=1e-3)


def test_an_hour_of_decoding_does_not_make_it_forget_what_a_prompt_costs():
    model = StepTime()
    for _ in range(10):
        model.observe(16, 1600, 0.010, with_prompt=False)
        model.observe(116, 6650, 0.030, with_prompt=True)
    for number in range(1000):
        model.observe(16, 1600 + number, 0.010, with_prompt=False)
    assert model.seconds(116, 6650) == pytest.approx(0.030, rel=0.05)


def test_a_machine_that_becomes_slower_is_followed():
    model = StepTime()
    for seconds in [0.01] * 100 + [0.03] * 64:
        model.observe(16, 1600, seconds, with_prompt=False)
    assert model.seconds(16, 1600) == pytest.approx(0.03, rel=1e-3)


def test_hiccups_do_not_spoil_it():
    model = StepTime()
    for number in range(64):
        model.observe(16, 1600, 1.0 if number % 16 == 5 else 0.01, with_prompt=False)
    assert model.seconds(16, 1600) == pytest.approx(0.01, rel=0.1)


@given(st.lists(st.tuples(st.integers(1, 4096), st.integers(1, 10**8), st.floats(0, 100)), min_size=8))
def test_whatever_was_measured_no_cost_is_negative(measured):
    model = StepTime()
    for tokens, pairs, seconds in measured:
        model.observe(tokens, pairs, seconds, with_prompt=tokens % 2 == 0)
    assert math.isfinite(model.seconds(16, 1600))
    assert 0 <= model.seconds(0, 0) <= model.seconds(1, 1) <= model.seconds(100, 10_000)
    assert model.tokens_within(0.0, 10) == 0


def test_pairs_are_counted_query_by_query():
    assert prompt_pairs(3, 10) == 11 + 12 + 13
