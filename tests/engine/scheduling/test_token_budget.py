"""What targets make of a step, by a clock and a machine that the test invents."""

from __future__ import annotations

import pytest
from support.scheduler_rig import Rig, make_sequence, settings_of

from octavo.engine.scheduling.token_budget import Targets

STEP_TIME = (4e-3, 1e-3, 2e-7)
"""Four milliseconds for the weights, one for a token, and 0.2 us for each position that it looks back at."""

LENGTH = 40_000


def rig_of(*, num_decodes=8, ttft=None, itl=None, warm_up=70, **rest) -> Rig:
    """A rig in which sequences decode and the time of steps is known."""
    settings = settings_of(max_num_seqs=64, budget=512, targets=Targets(ttft, itl), **rest)
    rig = Rig(settings, 2000, step_time=STEP_TIME)
    rig.add(*(make_sequence(i, [i] * 10, LENGTH, max_model_len=LENGTH) for i in range(num_decodes)))
    for _ in range(warm_up):
        rig.step()
    return rig


def prompt(rig: Rig, number: int, length: int):
    return make_sequence(number, [number] * length, 2, arrival_time=rig.now, max_model_len=LENGTH)


def slowdown(rig: Rig) -> float:
    """How much longer the next step takes than one with its decodes alone."""
    step = rig.step()
    decodes = step.sequences[: step.num_decodes]
    base, per_token, per_pair = STEP_TIME
    alone = base + per_token * len(decodes) + per_pair * sum(each.num_computed_tokens for each in decodes)
    return rig.seconds(step) / alone


def test_a_long_prompt_slows_decoding_down_by_two_thirds_at_most():
    rig = rig_of()
    rig.add(long := prompt(rig, 100, 10_000))
    slowdowns = []
    while len(long) == 10_000:
        slowdowns.append(slowdown(rig))
    # The first chunks find out what a token costs.
    assert max(slowdowns[:5]) < 2.5
    assert max(slowdowns[5:]) < 1.68
    # ... and the time that there is for it is used.
    assert sum(slowdowns[5:]) / len(slowdowns[5:]) > 1.5


def test_in_the_step_in_which_it_starts_a_long_prompt_computes_one_token():
    """Its blocks are named and found there: the streams would wait for that and for a chunk."""
    rig = rig_of()
    rig.add(long := prompt(rig, 100, 10_000))
    rig.step()
    assert long.num_computed_tokens == 1
    rig.step()
    assert long.num_computed_tokens > 5


def test_a_short_prompt_starts_beside_a_long_one():
    rig = rig_of()
    rig.add(prompt(rig, 100, 20_000))
    for _ in range(5):
        rig.step()
    short = prompt(rig, 101, 300)
    rig.add(short)
    rig.step()
    assert short.num_computed_tokens == 300
    assert len(short) == 301


def test_without_decodes_a_prompt_has_the_whole_step():
    rig = Rig(settings_of(budget=512), 4000, step_time=STEP_TIME)
    rig.add(prompt(rig, 100, 2000))
    assert rig.steps(4) == [[512], [512], [512], [464]]


def test_a_fixed_threshold_takes_the_place_of_time():
    rig = rig_of(long_prefill_token_threshold=100)
    rig.add(prompt(rig, 100, 250))
    assert [step[-1] for step in rig.steps(3)] == [100, 100, 50]


@pytest.mark.parametrize("itl", [0.015, 0.03, 0.1])
def test_steps_keep_to_the_target_between_tokens(itl: float):
    rig = rig_of(itl=itl, max_num_partial_prefills=4)
    rig.add(*(prompt(rig, 100 + number, 400) for number in range(5)))
    seconds = [rig.seconds(rig.step()) for _ in range(100)]
    assert max(seconds[4:]) <= itl
    assert any(second > 0.7 * itl for second in seconds[4:30])


def test_a_target_that_decoding_alone_misses_still_lets_prompts_through():
    rig = rig_of(itl=0.001)
    rig.add(first := prompt(rig, 100, 50))
    for _ in range(60):
        rig.step()
    assert len(first) > 50


def test_where_the_target_leaves_no_time_for_a_token_one_goes_on_all_the_same():
    rig = rig_of(num_decodes=1, itl=0.001)
    rig.add(first := prompt(rig, 100, 20))
    assert [rig.step().num_new_tokens for _ in range(5)] == [[1, 1]] * 5
    assert first.num_computed_tokens == 5


def test_where_decoding_alone_misses_the_target_prompts_have_a_tenth_of_its_time():
    rig = rig_of(num_decodes=40, itl=0.001)  # 44 ms a step and more: 4 of them are time for 4 tokens.
    rig.add(prompt(rig, 100, 100))
    taken = [rig.step().num_new_tokens[-1] for _ in range(10)]
    assert set(taken[1:]) <= {4, 5}


def test_no_more_run_than_can_decode_within_the_target():
    rig = rig_of(num_decodes=2, itl=0.0201, warm_up=40)
    rig.add(*(make_sequence(i, [i] * 4, 4000, max_model_len=LENGTH) for i in range(50, 80)))
    for _ in range(200):
        rig.step()
    # 0.85 x 20.1 ms less 4 for the weights are 13 tokens of a millisecond.
    assert 12 <= len(rig.scheduler.running) <= 13
    assert rig.scheduler.num_waiting


def time_to_first_token(rig: Rig, length: int) -> float:
    arrived = rig.now
    rig.add(long := prompt(rig, 100, length))
    while len(long) == length:
        rig.step()
    return rig.now - arrived


def test_a_long_prompt_hurries_for_its_first_token():
    slow = time_to_first_token(rig_of(), 2000)
    assert slow > 3.0
    assert time_to_first_token(rig_of(ttft=3.0), 2000) < 3.0
    # What can not be is not tried at the cost of all others for longer than it takes.
    assert 2.0 < time_to_first_token(rig_of(ttft=0.5), 2000) < slow
