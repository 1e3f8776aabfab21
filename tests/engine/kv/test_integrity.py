"""The check of the blocks passes whatever sequences went through, and finds each thing that may go wrong."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from support.hash_executable import HashExecutable
from support.scheduler_rig import Rig, make_sequence, rigs, settings_of, workloads

from octavo.engine.build import step_limits
from octavo.engine.engine import Engine, EngineSettings
from octavo.engine.kv.integrity import VARIABLE, BlockIntegrityError
from octavo.engine.messages import AddRequest
from octavo.engine.sequence import Sequence
from octavo.sampling_params import SamplingParams


def some(data: st.DataObject, choices: list[int]) -> int:
    """One of these, if there are any; else this is no example."""
    assume(choices)
    return data.draw(st.sampled_from(choices))


def held(rig: Rig) -> list[int]:
    return [block for block, count in enumerate(rig.pool.ref_counts) if count]


def known(rig: Rig, *, full: bool = False) -> list[int]:
    assume(rig.cache is not None)
    contents = enumerate(rig.cache.known)
    return [block for block, content in contents if content and (content.digest or not full)]


def a_reference_too_many(rig: Rig, data: st.DataObject) -> str:
    block = data.draw(st.integers(0, rig.num_blocks - 1))
    rig.pool.share([block])
    return f"block {block} has a reference count"


def a_reference_too_few(rig: Rig, data: st.DataObject) -> str:
    block = some(data, held(rig))
    rig.pool.free([block])
    return f"block {block} has a reference count"


def a_free_block_is_lost(rig: Rig, data: st.DataObject) -> str:
    block = some(data, list(rig.pool.newest_free()))
    del rig.pool._free[block]
    return f"block {block} has a reference count of 0 and is not in the free list"


def a_held_block_is_free(rig: Rig, data: st.DataObject) -> str:
    block = some(data, held(rig))
    rig.pool._free[block] = None
    return f"block {block} .* is in the free list"


def a_table_has_another_block(rig: Rig, data: st.DataObject) -> str:
    sequences = [each for each in rig.scheduler.running if each.held_blocks]
    assume(sequences)
    sequence = data.draw(st.sampled_from(sequences))
    table = data.draw(st.sampled_from([table for table in sequence.tables if table.held]))
    index = data.draw(st.integers(table.num_dropped, len(table.blocks) - 1))
    other = data.draw(st.integers(0, rig.num_blocks - 1).filter(lambda block: block != table.blocks[index]))
    old, table.blocks[index] = table.blocks[index], other
    return f"block ({old}|{other}) "


def a_table_is_short(rig: Rig, data: st.DataObject) -> str:
    sequences = [each for each in rig.scheduler.running if each.num_slots]
    assume(sequences)
    sequence = data.draw(st.sampled_from(sequences))
    sequence.tables[-1].blocks.pop()
    return f"sequence {sequence.request_id} has"


def a_digest_leads_elsewhere(rig: Rig, data: st.DataObject) -> str:
    block = some(data, known(rig, full=True))
    rig.cache.blocks[rig.cache.known[block].digest] = other = (block + 1) % rig.num_blocks
    return f"finds block {other} for a digest that it does not have"


def a_known_block_is_not_found(rig: Rig, data: st.DataObject) -> str:
    block = some(data, known(rig, full=True))
    del rig.cache.blocks[rig.cache.known[block].digest]
    return f"knows block {block} and does not find it"


def a_known_block_is_nobodys_child(rig: Rig, data: st.DataObject) -> str:
    block = some(data, known(rig))
    content = rig.cache.known[block]
    rig.cache._children[content.parent].remove((content.tokens, block))
    rig.cache._children[b"x"] = []
    return "empty list of children|is nobody's child"


def a_child_is_forgotten(rig: Rig, data: st.DataObject) -> str:
    block = some(data, known(rig))
    content = rig.cache.known[block]
    rig.cache.known[block] = None
    rig.cache.blocks.pop(content.digest, None)
    return f"block {block} is a child"


def children_out_of_order(rig: Rig, data: st.DataObject) -> str:
    assume(rig.cache is not None)
    lists = [children for children in rig.cache._children.values() if len(children) > 1]
    assume(lists)
    data.draw(st.sampled_from(lists)).reverse()
    return "children in the wrong order"


def what_a_sequence_shares_is_forgotten(rig: Rig, data: st.DataObject) -> str:
    assume(rig.cache is not None)
    shared = [
        block
        for sequence in rig.scheduler.running
        for table in sequence.tables
        for block in table.blocks[table.num_dropped : sequence.num_known_blocks]
    ]
    block = some(data, shared)
    rig.cache._forget(block)
    return f"block {block}, number .* is not known to the prefix cache"


def pending_of_one_that_left(rig: Rig, data: st.DataObject) -> str:
    assume(rig.cache is not None)
    rig.scheduler._blocks._pending.begin(make_sequence(1000 + data.draw(st.integers(0, 9)), [1, 2, 3]))
    return r"pending of sequence 100\d"


MUTATIONS = [
    a_reference_too_many,
    a_reference_too_few,
    a_free_block_is_lost,
    a_held_block_is_free,
    a_table_has_another_block,
    a_table_is_short,
    a_digest_leads_elsewhere,
    a_known_block_is_not_found,
    a_known_block_is_nobodys_child,
    a_child_is_forgotten,
    children_out_of_order,
    what_a_sequence_shares_is_forgotten,
    pending_of_one_that_left,
]


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.__name__)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
@given(rig=rigs(), workload=workloads(), num_steps=st.integers(1, 60), data=st.data())
def test_what_goes_wrong_is_found(
    mutation, rig: Rig, workload: list[tuple[int, Sequence]], num_steps: int, data: st.DataObject
):
    arrivals = iter(workload)
    arrives, sequence = next(arrivals)
    for number in range(num_steps):
        while sequence is not None and arrives <= number:
            rig.add(sequence)
            arrives, sequence = next(arrivals, (0, None))
        rig.step()
        rig.scheduler.check_blocks()
    expected = mutation(rig, data)
    with pytest.raises(BlockIntegrityError, match=expected):
        rig.scheduler.check_blocks()


def test_more_is_computed_than_there_are_slots_for():
    rig = Rig(settings_of(), 20)
    sequence = make_sequence(7, list(range(20)))
    rig.add(sequence)
    rig.step()
    sequence.num_computed_tokens = 33
    with pytest.raises(BlockIntegrityError, match="sequence 7 has 33 computed tokens in 32 slots"):
        rig.scheduler.check_blocks()


def test_a_copy_that_is_to_be_made_holds_its_source():
    rig = Rig(settings_of(), 20)
    rig.add(make_sequence(0, list(range(20)), max_tokens=1))
    rig.finish()
    rig.add(make_sequence(1, [*range(18), 999]))
    step = rig.scheduler.schedule()
    assert step.copies
    rig.scheduler.check_blocks(step)
    with pytest.raises(BlockIntegrityError, match=f"block {step.copies[0][0]} has a reference count of 1"):
        rig.scheduler.check_blocks()


def leaky_engine() -> Engine:
    engine_settings = EngineSettings(settings_of(), 128, 19, 20)
    engine = Engine(
        HashExecutable(
            19,
            step_limits(engine_settings.scheduler, engine_settings.max_model_len, engine_settings.vocab_size),
        ),
        engine_settings,
    )
    engine.add(AddRequest("a", [1, 2, 3], SamplingParams(temperature=0.0, max_tokens=2), [], 0.0))
    engine.step()
    engine._pool.share([5])
    return engine


def test_an_idle_engine_checks_its_blocks(monkeypatch: pytest.MonkeyPatch, tmp_path):
    report = tmp_path / "violations"
    monkeypatch.setenv(VARIABLE, str(report))
    with pytest.raises(BlockIntegrityError, match="block 5 has a reference count of 1; it is held by no"):
        leaky_engine().step()
    with pytest.raises(BlockIntegrityError):
        leaky_engine().abort(["a"])
    assert report.read_text().count("block 5 has a reference count of 1") == 2


def test_without_the_variable_nothing_is_checked(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv(VARIABLE)
    engine = leaky_engine()
    engine.step()
    assert not engine.has_work
