"""Steps that were measured, as a cost."""

from __future__ import annotations

import pytest

from octavo.engine.messages import EngineReady
from octavo.engine.step_time import StepTime
from octavo.plan.machine_cost import MeasuredCost
from octavo.plan.step_work import StepWork


def fitted(base: float, per_token: float, per_pair: float, *, with_prompt: bool) -> StepTime:
    fit = StepTime()
    for tokens in (1, 4, 16, 64):
        for pairs in (10, 1000, 50_000):
            fit.observe(tokens, pairs, base + per_token * tokens + per_pair * pairs, with_prompt=with_prompt)
    return fit


def test_prompts_beside_decodes_add_only_what_they_take_more() -> None:
    cost = MeasuredCost(
        fitted(3e-3, 2e-4, 1e-6, with_prompt=False),
        fitted(2e-3, 1e-4, 1e-7, with_prompt=True),
        EngineReady(1, 1, 1, 1, "", 16),
    )
    decode = 3e-3 + 8 * 2e-4 + 4000 * 1e-6
    assert cost.seconds(StepWork(8, 4000, 4000, 8, 4000)) == pytest.approx(decode, rel=0.01)
    prompt = 50 * 1e-4 + 20_000 * 1e-7
    assert cost.seconds(StepWork(50, 20_000, 50)) == pytest.approx(2e-3 + prompt, rel=0.01)
    both = StepWork(58, 24_000, 4050, 8, 4000)
    assert cost.seconds(both) == pytest.approx(decode + prompt, rel=0.01)
