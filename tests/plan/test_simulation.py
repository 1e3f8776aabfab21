"""The simulated server against the engine itself, and against what can be computed by hand."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from support.hash_executable import HashExecutable

from octavo.engine.engine import Engine, EngineSettings
from octavo.engine.messages import AddRequest
from octavo.engine.scheduling.scheduler import SchedulerSettings
from octavo.plan.devices import DEVICES
from octavo.plan.service import Service, percentile, plan_service
from octavo.plan.shape import shape_of
from octavo.plan.simulation import Load, Simulation
from octavo.plan.step_cost import ALL_REDUCE_LATENCY, STEP_OVERHEAD, Roofline
from octavo.plan.step_work import StepWork
from octavo.runtime.backend import Limits
from octavo.sampling_params import SamplingParams

SETTINGS = SchedulerSettings(8, 64, 8)


@dataclass
class Constant:
    """A second for each step, all of which are kept."""

    steps: list[StepWork] = field(default_factory=list)

    def seconds(self, work: StepWork) -> float:
        self.steps.append(work)
        return 1.0

    def delays(self, num_decodes: int) -> tuple[float, ...]:
        return ()


@dataclass
class PerToken:
    """So long for each token; clients get them `uneven`ly."""

    token_seconds: float
    uneven: tuple[float, ...] = ()

    def seconds(self, work: StepWork) -> float:
        return self.token_seconds * work.num_tokens

    def delays(self, num_decodes: int) -> tuple[float, ...]:
        return self.uneven


def test_one_request_by_hand() -> None:
    cost = Constant()
    outcome = Simulation(cost, SETTINGS, 100).run(Load(None, 100, 3, 1))
    assert cost.steps == [
        StepWork(64, 64 * 65 // 2, 64),
        StepWork(36, 36 * 64 + 36 * 37 // 2, 100),
        StepWork(1, 101, 101, 1, 101),
        StepWork(1, 102, 102, 1, 102),
    ]
    assert outcome.ttft == [2.0]
    assert outcome.gaps == [1.0, 1.0]
    assert outcome.e2e == [4.0]


@pytest.mark.parametrize("num_blocks", [200, 40])
def test_it_takes_as_many_steps_as_the_engine(num_blocks: int) -> None:
    """40 blocks are too few for eight sequences of 100 tokens: there are preemptions."""
    load = Load(None, 70, 30, 20)
    outcome = Simulation(Constant(), SETTINGS, num_blocks).run(load)
    engine = Engine(
        HashExecutable(257, Limits(64, 8, 8, 100, 257)),
        EngineSettings(SETTINGS, 100, 257, num_blocks, prefix_caching=False),
    )
    params = SamplingParams(temperature=0.0, seed=0, max_tokens=30, ignore_eos=True)
    for number in range(20):
        engine.add(AddRequest(str(number), [number] * 70, params, [], 0.0))
    steps = preemptions = 0
    while engine.has_work:
        preemptions = engine.step().stats.num_preemptions
        steps += 1
    assert outcome.seconds == pytest.approx(steps, abs=0.1 * steps)
    assert (outcome.num_preemptions > 0) == (preemptions > 0) == (num_blocks == 40)
    assert len(outcome.e2e) == 20
    assert len(outcome.gaps) == 20 * 29


def test_slower_steps_stretch_everything() -> None:
    fast, slow = (Simulation(PerToken(s), SETTINGS, 100).run(Load(None, 50, 10, 12)) for s in (0.001, 0.002))
    assert slow.seconds == pytest.approx(2 * fast.seconds, rel=0.1)


def test_tokens_come_unevenly_and_no_later_in_all() -> None:
    load = Load(None, 10, 101, 1)
    even = Simulation(PerToken(0.01), SETTINGS, 100).run(load)
    uneven = Simulation(PerToken(0.01, (-0.02, -0.002, 0.022)), SETTINGS, 100).run(load)
    assert uneven.e2e == even.e2e
    assert {round(gap, 3) for gap in even.gaps} == {0.01}
    assert {round(gap, 3) for gap in uneven.gaps} == {0.0, 0.008, 0.032}  # no gap is less than none


def test_a_load_that_is_too_much_queues() -> None:
    def ttft(rate: float) -> float:
        return percentile(Simulation(PerToken(0.001), SETTINGS, 100).run(Load(rate, 50, 10, 200)).ttft, 95)

    # 60 tokens of 1 ms: a request takes 60 ms of the machine, so that 16.7 a second are all it can do.
    assert ttft(1) < 0.2
    assert ttft(1) < ttft(12) < 1.5
    assert ttft(30) > 2.5


def service(rate: float, target_itl: float = 0.1) -> Service:
    return plan_service(
        PerToken(0.001), SETTINGS, 100, Load(rate, 50, 10, 0), (2.0, target_itl), progress=lambda _: None
    )


def test_replicas_follow_the_load() -> None:
    one = service(1)
    assert one.capacity_rps == pytest.approx(1 / 0.060, rel=0.02)
    assert one.replicas == 1
    replicas = [service(rate).replicas or 0 for rate in (1, 20, 60, 150)]
    assert replicas == sorted(replicas)
    assert replicas[-1] >= 150 * 0.060
    assert service(20).loaded is not None
    assert service(20).loaded.meets(2.0, 0.1)  # type: ignore[union-attr]


def test_no_number_of_replicas_beats_the_time_of_one_step() -> None:
    hopeless = service(1, target_itl=0.0005)
    assert hopeless.replicas is None
    assert hopeless.loaded is None


def test_the_roofline_s_two_bounds() -> None:
    shape, device = shape_of("Llama-3.1-8B"), DEVICES["a100-80"]
    weight_bytes = shape.weight_bytes(2.0)
    one = Roofline(shape=shape, device=device, count=1, weight_bytes=weight_bytes, kv_bytes_per_value=2)
    decode = one.seconds(StepWork(1, 500, 500)) - STEP_OVERHEAD
    assert decode == pytest.approx((weight_bytes + 131_072 * 500) / (0.8 * 2.039e12))
    pairs = 4096 * 4097 // 2
    prefill = one.seconds(StepWork(4096, pairs, 4096)) - STEP_OVERHEAD
    flops = 2 * shape.linear_parameters * 4096 + 4 * 32 * 32 * 128 * pairs
    assert prefill == pytest.approx(flops / (0.55 * 312e12))
    two = Roofline(shape=shape, device=device, count=2, weight_bytes=weight_bytes, kv_bytes_per_value=2)
    halved = two.seconds(StepWork(1, 500, 500)) - STEP_OVERHEAD
    assert decode / 2 < halved < decode / 2 + 64 * ALL_REDUCE_LATENCY + 1e-4


def test_percentiles() -> None:
    values = [float(value) for value in range(1, 101)]
    assert percentile(values, 50) == 50
    assert percentile(values, 95) == 95
    assert percentile([3.0], 95) == 3.0
