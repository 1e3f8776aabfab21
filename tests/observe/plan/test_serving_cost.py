"""What a server adds to the engine's steps, as seconds for a step and for each of its sequences."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from octavo.config import EngineConfig
from octavo.observe.plan.serving_cost import ServedCost, measure_serving, share_out
from octavo.observe.plan.step_cost import StepWork


@dataclass
class Fixed:
    """Every step takes as long."""

    time: float

    def seconds(self, work: StepWork) -> float:
        return self.time


def test_only_sequences_that_decode_are_streams():
    cost = ServedCost(Fixed(0.01), per_step=0.002, per_sequence=0.0001)
    assert cost.seconds(StepWork(50, 20_000, 50)) == pytest.approx(0.012)
    assert cost.seconds(StepWork(58, 24_000, 4050, 8, 4000)) == pytest.approx(0.0128)


@pytest.mark.parametrize(
    ("batches", "added", "shared"),
    [
        ([1, 8], [0.001, 0.0017], (0.0009, 0.0001)),
        ([1, 8], [0.002, 0.001], (0.002, 0.0)),  # noise: more streams do not make a step shorter
        ([1, 8], [-0.001, 0.008], (0.0, 0.001)),  # nor do streams take more than all that was added
        ([1, 8], [-0.001, -0.002], (0.0, 0.0)),
        ([4, 4], [0.001, 0.003], (0.001, 0.0)),
    ],
)
def test_what_was_added_is_shared_out(
    batches: list[int], added: list[float], shared: tuple[float, float]
) -> None:
    assert share_out(batches, added) == pytest.approx(shared)


def test_a_server_that_does_not_start(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OCTAVO_ISA", "none")
    config = EngineConfig(max_model_len=128, max_num_seqs=2)
    with pytest.raises(ValueError, match=r"a server of this model does not start: .*OCTAVO_ISA"):
        measure_serving(config, Fixed(0.001), lambda _: None)
