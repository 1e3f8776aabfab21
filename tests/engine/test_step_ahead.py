"""Steps planned ahead: the same batches, and nothing runs or is given away that should not be."""

from __future__ import annotations

import dataclasses
import threading
from collections import Counter

import numpy as np
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from support.batch_invariance import EOS, Result, collect, engine_settings, requests, run_to_end
from support.hash_executable import HashExecutable

from octavo.engine.build import step_limits
from octavo.engine.engine import Engine, EngineSettings
from octavo.engine.messages import AddRequest
from octavo.engine.scheduling.scheduler import SchedulerSettings
from octavo.request_options import RequestOptions
from octavo.runtime.backend import Batch
from octavo.sampling_params import SamplingParams

VOCAB, MAX_MODEL_LEN = 19, 96
SIZES = {"vocab_size": VOCAB, "max_model_len": MAX_MODEL_LEN}
IN_ORDER = EngineSettings(SchedulerSettings(32, 512, 64), MAX_MODEL_LEN, VOCAB, num_blocks=256)
AHEAD = dataclasses.replace(IN_ORDER, async_scheduling=True)


class Recorder(HashExecutable):
    """Remembers what ran, and in which thread."""

    def __init__(self, engine_settings: EngineSettings) -> None:
        super().__init__(
            VOCAB,
            step_limits(engine_settings.scheduler, engine_settings.max_model_len, engine_settings.vocab_size),
        )
        self.batches: list[tuple[list[int], list[int]]] = []
        self.num_elsewhere = 0
        self.caller = threading.current_thread()
        self.may_run = threading.Event()
        self.may_run.set()

    def run(self, batch: Batch) -> NDArray[np.float32]:
        assert self.may_run.wait(60)
        self.batches.append((batch.token_ids.tolist(), batch.positions.tolist()))
        self.num_elsewhere += threading.current_thread() is not self.caller
        return super().run(batch)


def make(engine_settings: EngineSettings) -> tuple[Engine, Recorder]:
    executable = Recorder(engine_settings)
    return Engine(executable, engine_settings), executable


def request(number: int, **params) -> AddRequest:
    params = {"temperature": 0.0, "max_tokens": 40, "ignore_eos": True, **params}
    name, prompt = str(number), [number + 1] * 20
    return AddRequest(
        name, prompt, SamplingParams(**params), [EOS], float(number), options=RequestOptions(user=name)
    )


def check_blocks(engine: Engine) -> None:
    """Every block is held as often as running sequences hold it, and free when none does."""
    pool = engine._pool
    held = Counter(block for each in engine._scheduler.running for block in each.held_blocks)
    assert pool.ref_counts == [held[block] for block in range(pool.num_blocks)]
    assert pool.num_free == pool.num_blocks - len(held)


@settings(max_examples=60, deadline=None)
@given(requests(most=12, **SIZES))
def test_the_very_batches_that_run_in_order_run(batch: list[AddRequest]) -> None:
    """No row in vain either: a sequence that ended is in none of them."""
    together = [(0, each) for each in batch]
    planned, executable = make(AHEAD)
    in_order, expected = make(IN_ORDER)
    assert run_to_end(planned, together) == run_to_end(in_order, together)
    assert executable.batches == expected.batches
    assert expected.num_elsewhere == 0
    event(f"ahead: {executable.num_elsewhere > 0}")


@settings(max_examples=60, deadline=None)
@given(requests(most=12, **SIZES), engine_settings(**SIZES), st.data())
def test_blocks_are_given_back_once(
    batch: list[AddRequest], drawn: EngineSettings, data: st.DataObject
) -> None:
    """After every step and every abort, those of sequences in a step that runs too."""
    engine, _ = make(dataclasses.replace(drawn, async_scheduling=True))
    for each in batch:
        engine.add(each)
    while engine.has_work:
        engine.step()
        check_blocks(engine)
        if engine.has_work and data.draw(st.integers(0, 5), label="aborts if 0") == 0:
            engine.abort([data.draw(st.sampled_from(batch)).request_id])
            check_blocks(engine)
    engine.step()
    assert engine._pool.num_free == engine._pool.num_blocks


def test_the_next_step_runs_while_outputs_are_sent() -> None:
    engine, executable = make(AHEAD)
    engine.add(request(0))
    engine.step()
    engine.close()  # Waits for what runs.
    assert executable.num_steps == 2
    assert executable.num_elsewhere == 2


@pytest.mark.parametrize("policy", ["fcfs", "fair"])
def test_a_request_that_is_aborted_while_its_step_runs(policy: str) -> None:
    """Its token is dropped, nobody else's is, and its id can be used again at once."""
    scheduler = dataclasses.replace(AHEAD.scheduler, policy=policy)
    engine, executable = make(dataclasses.replace(AHEAD, scheduler=scheduler))
    wanted = {
        each.request_id: run_to_end(make(IN_ORDER)[0], [(0, each)])[each.request_id]
        for each in (request(0), request(1), request(2))
    }
    results: dict[str, Result] = {}
    for number in range(3):
        engine.add(request(number))
    for _ in range(5):
        collect(results, engine.step())
    executable.may_run.clear()
    removed = engine._sequences["0"]
    engine.abort(["0", "1"])
    check_blocks(engine)
    given = results.pop("1").token_ids
    assert given == wanted["1"].token_ids[: len(given)]
    engine.add(request(1))
    executable.may_run.set()
    aborted = results.pop("0").token_ids
    while engine.has_work:
        collect(results, engine.step())
        check_blocks(engine)
    assert removed.num_computed_tokens == 0
    assert aborted == wanted["0"].token_ids[: len(aborted)]
    assert results == {"1": wanted["1"], "2": wanted["2"]}


def test_an_engine_whose_requests_are_all_aborted_starts_again() -> None:
    engine, _ = make(AHEAD)
    engine.add(request(0))
    engine.step()
    engine.abort(["0"])
    assert not engine.has_work
    assert run_to_end(engine, [(0, request(1))]) == run_to_end(make(IN_ORDER)[0], [(0, request(1))])


def test_what_a_run_ahead_raises_is_raised() -> None:
    class Broken(Recorder):
        def run(self, batch: Batch) -> NDArray[np.float32]:
            if self.num_steps == 3:
                raise MemoryError("the fourth step")
            return super().run(batch)

    engine = Engine(Broken(AHEAD), AHEAD)
    engine.add(request(0))
    given = [engine.step().outputs[0].token_ids for _ in range(3)]
    assert all(given)
    with pytest.raises(MemoryError, match="the fourth step"):
        engine.step()
