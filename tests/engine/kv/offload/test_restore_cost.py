"""Blocks are restored where that was measured to be the cheaper way, and computed elsewhere."""

from __future__ import annotations

from support.offload_server import Server, prompt

from octavo.engine.kv.offload.restore_cost import RestoreCost
from octavo.engine.step_time import StepTime


def known_step_time(per_token: float) -> StepTime:
    step_time = StepTime()
    for tokens in range(1, 40):
        pairs = tokens * tokens
        step_time.observe(tokens, pairs, 1e-3 + per_token * tokens, with_prompt=True, num_prompt_pairs=pairs)
    return step_time


def test_the_cheaper_way_by_what_was_measured():
    cost = RestoreCost(StepTime())
    assert cost.is_worth_it(10, 10, 160, 0)  # Nothing is known yet.
    cost = RestoreCost(known_step_time(1e-3))  # 16 ms a block.
    assert cost.is_worth_it(10, 10, 160, 0)
    cost.observe_write(0.001)
    cost.observe_read(0.012)
    assert cost.is_worth_it(10, 10, 160, 0)
    assert not cost.is_worth_it(10, 20, 160, 0)  # Others are before it at the disk.
    for _ in range(30):
        cost.observe_read(0.020)
    assert not cost.is_worth_it(10, 10, 160, 0)
    assert cost.is_worth_it(10, 0, 160, 0)
    assert cost.is_worth_it(10, 5, 160, 0)
    for _ in range(60):
        cost.observe_read(0.002)
    assert cost.is_worth_it(10, 10, 160, 0)


def test_a_disk_that_is_too_slow_is_left_alone_until_it_is_faster(server: Server):
    expected, _ = server.ask(prompt(1, 70))
    server.restart()
    offload = server.engine._offload
    offload._cost._step_time = known_step_time(1e-3)
    offload._cost.read = 10.0
    assert server.ask(prompt(1, 70)) == (expected, 0)
    assert server.stats.restored_from_disk == 0
    # One block was read all the same, and how long that took is known from then on.
    if not offload._probe.done:  # A step of the answer may have collected it.
        offload.wait(60.0)
        offload.collect()
    assert offload._probe.done
    assert offload._cost.read < 10.0
