"""What a server adds to the engine's steps, as seconds for a step and for each of its sequences."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

import pytest

import octavo
from octavo.bench.load.outcome import Outcome
from octavo.config import EngineConfig
from octavo.plan import serving_cost
from octavo.plan.serving_cost import ServedCost, Streams, gaps_together, measure_serving, share_out
from octavo.plan.step_work import StepWork


@dataclass
class Fixed:
    """Every step takes as long."""

    time: float

    def seconds(self, work: StepWork) -> float:
        return self.time

    def delays(self, num_decodes: int) -> tuple[float, ...]:
        return ()


def test_only_sequences_that_decode_are_streams():
    cost = ServedCost(Fixed(0.01), 0.002, 0.0001, ())
    assert cost.seconds(StepWork(50, 20_000, 50)) == pytest.approx(0.012)
    assert cost.seconds(StepWork(58, 24_000, 4050, 8, 4000)) == pytest.approx(0.0128)


def test_gaps_are_those_of_the_nearest_batch():
    streams = [Streams(1, 0.003, (0.002, 0.004)), Streams(8, 0.005, (0.015,))]
    cost = ServedCost(Fixed(0.01), 0.0, 0.0, streams)
    assert cost.delays(1) == cost.delays(4) == pytest.approx((-0.001, 0.001))
    assert cost.delays(5) == cost.delays(16) == pytest.approx((0.01,))
    assert ServedCost(Fixed(0.01), 0.0, 0.0, ()).delays(1) == ()


def test_gaps_with_a_prompt_are_left_out():
    early = Outcome(32, start=0.0, ttft=1.0, gaps=[5.0, 0.1, 0.2])
    late = Outcome(32, start=1.0, ttft=3.0, gaps=[0.3, 0.4])
    # The second's prompt was computed until 4.0, in the first one's gap from 1.0 to 6.0.
    assert list(gaps_together([early, late])) == [0.1, 0.2, 0.3, 0.4]


@pytest.mark.parametrize(
    ("batches", "added", "shared"),
    [
        ((1, 8), (0.001, 0.0017), (0.0009, 0.0001)),
        ((1, 8), (0.002, 0.001), (0.002, 0.0)),  # noise: more streams do not make a step shorter
        ((1, 8), (-0.001, 0.008), (0.0, 0.001)),  # nor do streams take more than all that was added
        ((1, 8), (-0.001, -0.002), (0.0, 0.0)),
        ((4, 4), (0.001, 0.003), (0.001, 0.0)),
    ],
)
def test_what_was_added_is_shared_out(
    batches: tuple[int, int], added: tuple[float, float], shared: tuple[float, float]
) -> None:
    assert share_out(batches, added) == pytest.approx(shared)


def test_a_server_that_does_not_start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Started in a clone whose octavo is not built, the installed one is what runs."""
    (tmp_path / "octavo").mkdir()
    (tmp_path / "octavo/__init__.py").write_text("raise SystemExit('the wrong octavo')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(Path(octavo.__file__).parents[1]))
    monkeypatch.setenv("OCTAVO_ISA", "none")
    config = EngineConfig(max_model_len=128, max_num_seqs=2)
    with pytest.raises(ValueError, match=r"a server does not start: .*OCTAVO_ISA"):
        measure_serving(config, Fixed(0.001), lambda _: None)


def test_batches_are_read_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a slow second of the machine is in all of them."""
    read: list[int] = []

    class Reader:
        def __init__(self, batch: int) -> None:
            self.batch = batch

        async def warm_up(self) -> None:
            read.append(-self.batch)

        async def read(self) -> None:
            read.append(self.batch)

    monkeypatch.setattr(serving_cost, "_SECONDS", 0.0)
    asyncio.run(serving_cost._read_in_turns([Reader(1), Reader(3)]))  # type: ignore[list-item]
    assert read == [-1, -3, 1, 3, 1, 3]
