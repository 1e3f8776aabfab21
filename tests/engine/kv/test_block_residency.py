"""How long blocks keep their content: against a clock of the test's, then in an engine."""

from __future__ import annotations

import pytest
from support.live_server import live_server

from octavo.config import EngineConfig
from octavo.engine.kv import block_residency
from octavo.engine.kv.block_pool import BlockPool
from octavo.engine.kv.block_residency import BlockResidency


class Clock:
    now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(block_residency, "time", clock)
    return clock


def test_a_block_is_followed_until_it_is_handed_out_again(clock: Clock):
    residency = BlockResidency(1.0)
    pool = BlockPool(1, residency)
    blocks = pool.allocate(1)
    assert blocks is not None
    for clock.now in (2.0, 5.0):
        pool.share(blocks)
        pool.free(blocks)
    pool.free(blocks)
    assert residency.take() == []  # free, but its content is still there
    clock.now = 12.0
    assert pool.allocate(1) is not None
    [eviction] = residency.take()
    assert (eviction.lifetime, eviction.idle, eviction.reuse_gaps) == (12.0, 7.0, [2.0, 3.0])
    assert residency.take() == []


def test_the_gaps_of_a_block_in_constant_use_are_bounded(clock: Clock):
    residency = BlockResidency(1.0)
    residency.allocated([0])
    for number in range(1, 100):
        clock.now = float(number * number)
        residency.used_again([0])
    residency.allocated([0])
    [eviction] = residency.take()
    assert eviction.reuse_gaps == [191.0, 193.0, 195.0, 197.0]


def test_a_sample_is_followed(clock: Clock):
    residency = BlockResidency(0.1)
    residency.allocated(range(10_000))
    residency.allocated(range(10_000))
    assert 800 < len(residency.take()) < 1200


BOUNDS = [
    *(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5),
    *(1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800),
]


def test_a_server_shows_vllms_histograms_with_its_bounds():
    config = EngineConfig(kv_cache_metrics=True, kv_cache_metrics_sample=1.0)
    with live_server(engine=config) as server:
        for number in range(12):  # 12 x 16 blocks, of which there are 128
            for _ in range(2):
                server.post("/v1/completions", prompt=f"{number:<250}", max_tokens=2, ignore_eos=True)
        found = {
            name: [line for line in server.http.get("/metrics").text.splitlines() if line.startswith(name)]
            for name in (
                "vllm:kv_block_lifetime_seconds",
                "vllm:kv_block_idle_before_evict_seconds",
                "vllm:kv_block_reuse_gap_seconds",
            )
        }
    for name, lines in found.items():
        bounds = [float(line.split('le="')[1].split('"')[0]) for line in lines if "_bucket" in line]
        assert bounds == [*BOUNDS, float("inf")]
        [count] = [float(line.split()[-1]) for line in lines if line.startswith(f"{name}_count")]
        assert count > 0


def test_they_are_not_there_unasked():
    with live_server() as server:
        assert "kv_block_" not in server.http.get("/metrics").text
