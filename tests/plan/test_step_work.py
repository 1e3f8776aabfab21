"""Keys that are seen, counted one by one."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from octavo.engine.kv.kv_groups import KVGroup
from octavo.engine.kv.needs import Full, Window
from octavo.engine.scheduling.scheduler import Step
from octavo.plan.step_work import StepWork, seen_keys, seen_pairs, step_work


@given(st.integers(0, 60), st.integers(1, 40), st.integers(0, 50))
def test_a_window_s_keys(context: int, count: int, window: int) -> None:
    seen = [
        {key for key in range(position + 1) if not window or key > position - window}
        for position in range(context, context + count)
    ]
    assert seen_pairs(context, count, window) == sum(map(len, seen))
    assert seen_keys(context, count, window) == len(set().union(*seen))


def test_layers_count_as_many_as_they_are() -> None:
    class Decoding:
        num_computed_tokens = 99

    step = Step([Decoding()], [1], num_tokens=1, num_decodes=1, num_pairs=100)  # type: ignore[list-item]
    groups = (KVGroup(Full(), (3,)), KVGroup(Window(20), (0,)), KVGroup(Window(20), (1, 2)))
    assert step_work(step, groups) == StepWork(1, 40, 40, 1, 40)
    assert step_work(step, (KVGroup(),)) == StepWork(1, 100, 100, 1, 100)
