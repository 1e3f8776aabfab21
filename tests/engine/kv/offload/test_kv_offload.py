"""What fell out of the prefix cache comes back bit for bit, when that is faster than computing it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.batch_invariance import (
    check_batch_invariance,
    engine_settings,
    requests,
    run_alone,
    run_to_end,
)
from support.hash_executable import HashExecutable
from support.kv_layers import groups_of
from support.offload_server import (
    BLOCK_BYTES,
    MAX_MODEL_LEN,
    SETTINGS,
    SIZES,
    VOCAB,
    Server,
    make_engine,
    plain,
    prompt,
)

from octavo.engine.build import step_limits
from octavo.engine.engine import Engine, EngineSettings
from octavo.engine.kv.cached_prefix import group_digest
from octavo.engine.kv.kv_groups import KVGroup
from octavo.engine.kv.needs import Window
from octavo.engine.kv.offload.host_tier import HostTier
from octavo.engine.kv.offload.kv_offload import KVOffload
from octavo.engine.kv.offload.restore_cost import RestoreCost
from octavo.engine.messages import AddRequest
from octavo.engine.scheduling.scheduler import SchedulerSettings
from octavo.request_options import RequestOptions
from octavo.sampling_params import SamplingParams


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever can be restored is."""
    monkeypatch.setattr(RestoreCost, "is_worth_it", lambda *_: True)


@settings(
    max_examples=120,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    st.sampled_from([(0,), (0,), (21,), (0, 21)]),
    requests(most=8, **SIZES),
    st.sampled_from([0, 1, 3, 20]),
    st.booleans(),
    st.data(),
)
@pytest.mark.usefixtures("always")
def test_restored_equals_computed_bit_for_bit(tmp_path: Path, windows, batch, host_blocks, on_disk, data):
    """The disk is that of all examples before: of engines with other settings, that ended anyhow."""
    groups = groups_of(windows)
    settings = data.draw(engine_settings(**SIZES, groups=groups))
    engines = []

    def alone(request: AddRequest):
        return run_alone(plain, request, MAX_MODEL_LEN, VOCAB, groups)

    def factory(engine_settings: EngineSettings) -> Engine:
        engines.append(make_engine(engine_settings, host_blocks, tmp_path if on_disk else None))
        return engines[0]

    check_batch_invariance(factory, alone, settings, batch, data)
    (engine,) = engines
    assert engine.step().stats.num_free_blocks == settings.num_blocks
    while engine.save_some() is not None:
        pass
    engine.close()


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("server", ["host", "disk"], indirect=True)
def test_what_was_evicted_comes_back(server: Server):
    expected = server.ask(prompt(1))
    assert expected[1] == 0
    server.ask(prompt(2, 80))  # Takes all blocks.
    if server.folder is not None:
        assert server.engine._offload._writer.flush(60.0)
    tokens, cached = server.ask(prompt(1))
    assert (tokens, cached) == (expected[0], 48)  # The last token's block is not asked for.
    stats = server.stats
    assert stats.restored_from_host + stats.restored_from_disk == 3
    assert (stats.restored_from_host == 3) == (server.folder is None)
    assert (stats.queries, stats.hits) == (64 + 80 + 64, 48)
    assert server.engine.step().stats.prefix_cache_hits == 0


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("gracefully", [True, False])
def test_a_restart_finds_everything(server: Server, gracefully: bool):
    expected, _ = server.ask(prompt(1, 70))
    server.restart(gracefully=gracefully)
    assert server.stats.disk_blocks == 4
    assert server.ask(prompt(1, 70)) == (expected, 64)
    assert server.stats.restored_from_disk == 4
    # Once it is back it is a hit of the KV cache.
    assert server.ask(prompt(1, 70)) == (expected, 69)
    assert server.stats.restored_from_disk == 4


@pytest.mark.usefixtures("always")
def test_of_layers_with_a_window_only_its_blocks_come_back(tmp_path: Path):
    groups = (KVGroup(), KVGroup(Window(21)))
    scheduler = SchedulerSettings(4, 64, max_outputs=8, kv_groups=groups)
    settings = EngineSettings(scheduler, MAX_MODEL_LEN, VOCAB, num_blocks=12)
    server = Server(tmp_path, settings=settings)
    expected, _ = server.ask(prompt(1, 70))
    server.restart()
    assert server.stats.disk_blocks == 4 + 4
    assert server.ask(prompt(1, 70)) == (expected, 64)
    assert server.stats.restored_from_disk == 4 + 2  # Token 64 sees token 44.
    cache, hasher = server.engine._prefix_cache, server.engine._hasher
    digests = hasher.chain(hasher.root(""), prompt(1, 70))
    assert [cache.find(group_digest(digest, 1)) is None for digest in digests] == [True, True, False, False]
    assert server.ask(prompt(1, 70)) == (expected, 69)
    server.engine.close()


@pytest.mark.usefixtures("always")
def test_a_graceful_end_alone_saves_all(server: Server):
    expected, _ = server.ask(prompt(1, 70))
    server.restart(save=False)
    assert server.ask(prompt(1, 70)) == (expected, 64)


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("damaged", [0, 2, 3])
def test_what_is_damaged_on_disk_is_computed(server: Server, damaged: int):
    """A hit ends before it; what comes after on the disk is of no use."""
    expected, _ = server.ask(prompt(1, 70))
    digests = server.engine._hasher.chain(server.engine._hasher.root(""), prompt(1, 70))
    server.restart()
    (path,) = server.folder.rglob(f"{digests[damaged].hex()}.kv")
    data = bytearray(path.read_bytes())
    data[-5] ^= 64
    path.write_bytes(data)
    assert server.ask(prompt(1, 70)) == (expected, 16 * damaged)
    assert server.stats.restored_from_disk == damaged
    # It was removed, and what was computed in its place is saved again.
    server.restart()
    assert server.ask(prompt(1, 70)) == (expected, 64)


@pytest.mark.usefixtures("always")
def test_a_salt_keeps_apart_and_skipping_computes(server: Server):
    expected, _ = server.ask(prompt(1, 70), cache_salt="mine")
    server.restart()
    assert server.ask(prompt(1, 70)) == (expected, 0)
    server.restart()
    assert server.ask(prompt(1, 70), skip=True, cache_salt="mine") == (expected, 0)
    server.restart()
    assert server.ask(prompt(1, 70), cache_salt="mine") == (expected, 64)


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("server", ["host", "disk"], indirect=True)
def test_a_reset_forgets_every_tier(server: Server):
    server.ask(prompt(1))
    server.ask(prompt(2, 80))
    while server.engine.save_some() is not None:
        pass
    server.engine.reset_prefix_cache()
    assert server.ask(prompt(1))[1] == 0
    server.engine.reset_prefix_cache()
    if server.folder is not None:
        server.restart()
        assert server.ask(prompt(1))[1] == 0


@pytest.mark.usefixtures("always")
def test_of_many_that_begin_alike_one_restores_and_all_share(tmp_path: Path):
    settings = EngineSettings(SchedulerSettings(8, 64, max_outputs=8), MAX_MODEL_LEN, VOCAB, num_blocks=60)
    server = Server(tmp_path, settings=settings)
    server.ask(prompt(1, 70))
    server.restart()
    for number in range(8):
        params = SamplingParams(temperature=0.0, max_tokens=4, ignore_eos=True)
        tokens = [*prompt(1, 64), number, 5]
        server.engine.add(AddRequest(f"many {number}", tokens, params, [], float(number)))
    results = []
    while server.engine.has_work:
        results += [output for output in server.engine.step().outputs if output.finish_reason]
    assert [each.num_cached_tokens for each in results] == [64] * 8
    assert server.stats.restored_from_disk == 4
    server.engine.close()


@pytest.mark.usefixtures("always")
def test_those_that_wait_for_the_disk_hold_nobody_up(server: Server, monkeypatch: pytest.MonkeyPatch):
    """... and one that was aborted while it waited leaves nothing behind."""
    server.ask(prompt(1, 70))
    server.restart()
    offload = server.engine._offload
    monkeypatch.setattr(offload, "collect", lambda: None)
    params = SamplingParams(temperature=0.0, max_tokens=2, ignore_eos=True)
    server.engine.add(AddRequest("slow", prompt(1, 70), params, [], 0.0))
    server.engine.add(AddRequest("quick", prompt(2, 20), params, [], 1.0))
    given = []
    for _ in range(5):
        given += [output.request_id for output in server.engine.step().outputs]
    assert given == ["quick", "quick"]
    assert offload._reader.num_held == 4
    server.engine.abort(["slow"])
    assert offload._reader.num_held == 0


@pytest.mark.usefixtures("always")
def test_nobody_gives_way_to_one_that_still_waits_for_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    scheduler = SchedulerSettings(4, 64, max_outputs=8, policy="priority")
    server = Server(tmp_path, settings=EngineSettings(scheduler, MAX_MODEL_LEN, VOCAB, num_blocks=6))
    server.ask(prompt(1, 70))
    server.restart()
    params = SamplingParams(temperature=0.0, max_tokens=20, ignore_eos=True)
    server.engine.add(AddRequest("low", prompt(2, 70), params, [], 0.0, options=RequestOptions(priority=1)))
    server.engine.step()
    with monkeypatch.context() as patch:
        patch.setattr(server.engine._offload, "collect", lambda: None)
        server.engine.add(AddRequest("high", prompt(1, 70), params, [], 1.0))
        for _ in range(5):
            assert [output.request_id for output in server.engine.step().outputs] == ["low"]
        server.wait_for_reads(4)  # Or "low" could be done before they are.
    while server.engine._offload._reader.num_held:
        stats = server.engine.step().stats
    assert stats.num_preemptions == 1
    server.engine.abort(["low", "high"])
    server.engine.close()


@pytest.mark.usefixtures("always")
def test_the_part_of_a_block_after_restored_ones_is_copied(server: Server):
    expected, _ = server.ask(prompt(1, 70))
    while server.engine.save_some() is not None:
        pass
    assert server.engine._offload._writer.flush(60.0)
    cache = server.engine._prefix_cache
    for digest in server.engine._hasher.chain(server.engine._hasher.root(""), prompt(1, 70)):
        cache._forget(cache.find(digest))
    assert server.ask(prompt(1, 70)) == (expected, 69)
    assert server.stats.restored_from_disk == 4


def test_the_end_of_a_chain_leaves_host_memory_before_its_beginning():
    host = HostTier(3)
    offload = KVOffload(
        HashExecutable(VOCAB, step_limits(SETTINGS.scheduler, SETTINGS.max_model_len, SETTINGS.vocab_size)),
        BLOCK_BYTES,
        host,
    )
    chain = [bytes([number]) * 32 for number in range(4)]
    for digest in (chain[1], chain[0], chain[2]):
        host.put(digest, np.zeros(BLOCK_BYTES, np.uint8))
    offload.take(chain[:3], None)
    for left in (2, 1, 0):
        host.put(bytes([9 + left]) * 32, np.zeros(BLOCK_BYTES, np.uint8))
        assert [digest in host for digest in chain[:3]] == [True] * left + [False] * (3 - left)


@pytest.mark.usefixtures("always")
def test_blocks_are_taken_before_others_push_them_out():
    """Three blocks in host memory, which those that give way in the same step fill."""
    server = Server(None, host_blocks=3)
    expected, _ = server.ask(prompt(1, 49))
    server.ask(prompt(2, 90))
    assert server.stats.host_blocks == 3
    assert server.ask(prompt(1, 49)) == (expected, 48)


def test_what_is_to_be_saved_is_forgotten_when_it_is_gone(server: Server):
    for number in range(30):
        server.ask([*prompt(number % VOCAB, 80), number % VOCAB, 1])
    assert len(server.engine._offload._unsaved) <= SETTINGS.num_blocks


def test_blocks_are_copied_to_a_tier_once(server: Server):
    for number in (1, 2, 1, 2):
        server.ask(prompt(number, 80), skip=True)
        assert server.engine._offload._writer.flush(60.0)
    while server.engine.save_some() is not None:
        pass
    assert server.engine._offload._writer.flush(60.0)
    assert server.stats.written == server.stats.disk_blocks == 10


def test_results_without_a_tier_have_no_statistics_of_it():
    engine = plain(SETTINGS)
    run_to_end(engine, [(0, AddRequest("a", prompt(1), SamplingParams(max_tokens=1, seed=0), [], 0.0))])
    assert engine.step().stats.offload is None
    assert engine.save_some() is None
    engine.close()
