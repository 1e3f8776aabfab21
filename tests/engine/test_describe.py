"""What the engine says of itself, against what its parts hold."""

from __future__ import annotations

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st
from support.batch_invariance import EOS
from support.hash_executable import HashExecutable
from support.known_beginning import known_beginning

from octavo.engine import describe
from octavo.engine.engine import Engine, EngineSettings
from octavo.engine.kv import prefix_tree
from octavo.engine.kv.block_hash import BlockHasher
from octavo.engine.kv.block_pool import blocks_for
from octavo.engine.kv.kv_groups import KVGroup
from octavo.engine.kv.needs import Window
from octavo.engine.messages import AddRequest, DescribeState, EngineState, PrefixNode
from octavo.engine.scheduling.scheduler import SchedulerSettings
from octavo.request_options import RequestOptions
from octavo.runtime.backend import Limits
from octavo.runtime.kv_cache import BLOCK_SIZE
from octavo.sampling_params import SamplingParams

VOCAB = 19


def make_engine(num_blocks: int = 40, max_num_seqs: int = 4, prefix_caching: bool = True) -> Engine:
    scheduler = SchedulerSettings(max_num_seqs, 40, max_outputs=16)
    engine_settings = EngineSettings(scheduler, 160, VOCAB, num_blocks, prefix_caching)
    return Engine(HashExecutable(VOCAB, Limits(40, 16, max_num_seqs, 160, VOCAB)), engine_settings)


def request(number: int, prompt: list[int], max_tokens: int = 5, salt: str = "") -> AddRequest:
    params = SamplingParams(temperature=0.0, max_tokens=max_tokens, ignore_eos=True, seed=0)
    return AddRequest(
        str(number), prompt, params, [EOS], float(number), options=RequestOptions(cache_salt=salt)
    )


def run_to_end(engine: Engine) -> None:
    while engine.has_work:
        engine.step()


def whole(engine: Engine) -> EngineState:
    return engine.describe(DescribeState(tree=True, tokens=True))


def paths(tree: list[PrefixNode]) -> list[list[PrefixNode]]:
    """Each node with those above it, from the root."""
    found: list[list[PrefixNode]] = []
    for index, node in enumerate(tree):
        assert -1 <= node.parent < index
        found.append([*(found[node.parent] if node.parent >= 0 else []), node])
    return found


prompts = st.lists(st.integers(0, 1), min_size=1, max_size=5).map(
    lambda blocks: [token for token in blocks for _ in range(BLOCK_SIZE)]
)
workloads = st.lists(
    st.tuples(prompts, st.integers(0, 20), st.integers(1, 30), st.sampled_from(["", "salt"])),
    min_size=1,
    max_size=8,
)


@settings(max_examples=60, deadline=None)
@given(workloads, st.integers(12, 40), st.data())
def test_it_is_what_the_parts_hold(workload, num_blocks: int, data: st.DataObject):
    engine = make_engine(num_blocks)
    pool, cache, scheduler = engine._pool, engine._prefix_cache, engine._scheduler
    assert cache is not None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prefix_tree, "MAX_TOKENS", 10_000)
        for number, (prompt, tail, max_tokens, salt) in enumerate(workload):
            engine.add(request(number, prompt + [2] * tail, max_tokens, salt))
            for _ in range(data.draw(st.integers(0, 6))):
                engine.step()
            state = whole(engine)
            assert whole(engine).tree == state.tree, "describing changes something"

            assert (state.num_blocks, state.blocks_per_cell) == (num_blocks, 1)
            assert (state.num_free, state.num_known) == (pool.num_free, sum(state.known))
            padding = bytes(num_blocks - len(state.holders))
            assert list(state.holders + padding) == pool.ref_counts
            assert list(state.known + padding) == [content is not None for content in cache.known]

            assert [each.request_id for each in state.running] == [
                each.request_id for each in scheduler.running
            ]
            for shown, sequence in zip(state.running, scheduler.running, strict=True):
                assert shown.cells == sequence.held_blocks
                assert shown.num_blocks == len(sequence.held_blocks)
                assert shown.num_computed <= shown.num_tokens == len(sequence) <= shown.max_length
                # The last token of a prompt may be left by itself: it is a prompt until it has sampled one.
                left = shown.num_tokens - shown.num_computed
                assert left == 1 or shown.phase == "prefill"
                assert shown.phase == "prefill" or shown.num_tokens > shown.num_prompt
            held = [block for shown in state.running for block in shown.cells]
            assert [held.count(block) for block in range(num_blocks)] == pool.ref_counts
            assert [each.request_id for each in state.queued] == [
                each.request_id for each in scheduler.waiting
            ]
            # One may be preempted before its prompt is computed.
            assert all(each.preempted or each.num_tokens == each.num_prompt for each in state.queued)
            assert [each.preempted for each in state.queued] == [
                each.was_admitted for each in scheduler.waiting
            ]

            assert state.tree is not None
            reachable = set()
            for path in paths(state.tree):
                tokens = [token for node in path for token in node.token_ids]
                assert len(tokens) == BLOCK_SIZE * sum(node.num_blocks for node in path)
                hasher = BlockHasher()
                chains = [hasher.chain(hasher.root(salt), tokens) for salt in ("", "salt")]
                matches = [known_beginning(cache, digests) for digests in chains]
                [found] = [
                    each
                    for each in matches
                    if len(each) * BLOCK_SIZE == len(tokens) and path[-1].cell in each[-path[-1].num_blocks :]
                ]
                edge = found[-path[-1].num_blocks :]
                assert [pool.ref_counts[block] for block in edge] == [path[-1].num_holders] * len(edge)
                assert not reachable & set(edge)
                reachable |= set(edge)
            known = {
                block: content for block, content in enumerate(cache.known) if content and content.digest
            }
            digests = {content.digest for content in known.values()}
            orphans = {
                block for block, each in known.items() if not each.is_first and each.parent not in digests
            }
            event(f"orphans: {bool(orphans)}, preempted: {scheduler.num_preemptions > 0}")
            if not orphans:
                assert reachable == set(known)
            assert state.num_hidden == 0
        run_to_end(engine)
        assert whole(engine).running == []
        assert whole(engine).num_step_tokens == 0


def test_shared_prompts_are_a_tree_with_a_branch():
    engine = make_engine()
    common, left, right = [1] * 32, [2] * 16, [3] * 16
    engine.add(request(0, common + left + [4]))
    run_to_end(engine)
    engine.add(request(1, common + right + [4]))
    engine.add(request(2, common + left + [4]))
    for _ in range(2):
        engine.step()
    state = whole(engine)
    assert state.tree is not None
    root, *branches = state.tree
    assert (root.parent, root.num_blocks, root.num_holders) == (-1, 2, 2)
    assert root.token_ids == [1] * 16
    assert [(node.parent, node.num_blocks, node.num_holders) for node in branches] == [(0, 1, 1), (0, 1, 1)]
    assert {node.token_ids[0] for node in branches} == {2, 3}
    first, second = state.running
    assert first.cells[:2] == second.cells[:2] == [0, 1]
    assert [second.cells[2], first.cells[2]] == [
        node.cell for node in sorted(branches, key=lambda n: n.token_ids)
    ]
    assert (first.num_cached, second.num_cached) == (32, 48)
    assert state.num_step_tokens == first.num_new + second.num_new
    assert state.holders[:2] == bytes([2, 2])


def test_the_tree_has_the_blocks_of_one_group_for_those_of_all():
    scheduler = SchedulerSettings(4, 40, max_outputs=16, kv_groups=(KVGroup(), KVGroup(Window(21))))
    hybrid = Engine(
        HashExecutable(VOCAB, Limits(40, 16, 4, 160, VOCAB), (0, 21)),
        EngineSettings(scheduler, 160, VOCAB, 40),
    )
    trees = []
    for engine in (make_engine(), hybrid):
        for number in range(3):
            engine.add(request(number, [1] * 32 + [number] * 32, max_tokens=60))
        for _ in range(12):
            engine.step()
        state = whole(engine)
        assert state.tree is not None
        trees.append(sorted((node.num_blocks, node.num_holders, list(node.token_ids)) for node in state.tree))
    assert trees[0] == trees[1] != []
    assert len(state.running) == 3
    for shown in state.running:
        blocks, out_of_window = blocks_for(shown.num_computed), (shown.num_computed - 20) // 16
        assert shown.num_blocks == 2 * blocks - out_of_window


def test_only_what_is_asked_for():
    engine = make_engine()
    engine.add(request(0, [1] * 40))
    engine.step()
    assert engine.describe(DescribeState()).tree is None
    tree = engine.describe(DescribeState(tree=True)).tree
    assert tree
    assert all(node.token_ids == [] for node in tree)


def test_phases_and_the_tokens_of_a_step():
    engine = make_engine(max_num_seqs=2)
    engine.add(request(0, [1] * 10))
    engine.step()
    engine.add(request(1, [2] * 60))
    engine.add(request(2, [3] * 5))
    engine.step()
    state = engine.describe(DescribeState())
    decode, prefill = state.running
    assert (decode.phase, decode.num_new, decode.num_tokens) == ("decode", 1, 12)
    assert (prefill.phase, prefill.num_tokens, prefill.num_prompt) == ("prefill", 60, 60)
    assert 0 < prefill.num_new == prefill.num_computed < 60
    assert state.num_step_tokens == 1 + prefill.num_new
    assert [(each.request_id, each.num_prompt, each.preempted) for each in state.queued] == [("2", 5, False)]


def test_every_size_is_bounded(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(describe, "MAX_CELLS", 8)
    monkeypatch.setattr(describe, "MAX_SEQUENCES", 3)
    monkeypatch.setattr(describe, "MAX_TABLE_CELLS", 5)
    monkeypatch.setattr(prefix_tree, "MAX_NODES", 2)
    monkeypatch.setattr(prefix_tree, "MAX_BLOCKS", 9)
    engine = make_engine(num_blocks=60, max_num_seqs=4)
    for number in range(9):
        engine.add(request(number, [number] * 40, max_tokens=60))
    for _ in range(6):
        engine.step()
    state = whole(engine)
    assert state.num_running == 4
    assert len(state.running) == 3
    assert state.num_queued == 5
    assert len(state.queued) == 3
    touched = engine._pool.num_touched
    assert state.blocks_per_cell == -(-touched // 8) == 2
    assert len(state.holders) == len(state.known) == -(-touched // 2)
    for cell, count in enumerate(state.known):
        assert count == sum(
            content is not None for content in engine._prefix_cache.known[2 * cell : 2 * cell + 2]
        )
    assert sum(len(each.cells) for each in state.running) <= 5
    for shown, sequence in zip(state.running, engine._scheduler.running, strict=False):
        assert (
            shown.cells
            == list(dict.fromkeys(block // 2 for block in sequence.held_blocks))[: len(shown.cells)]
        )
        assert shown.cells
    assert state.tree is not None
    assert len(state.tree) == 2
    assert state.num_hidden == 1


def test_without_a_cache_there_is_no_tree():
    engine = make_engine(prefix_caching=False)
    engine.add(request(0, [1] * 40))
    engine.step()
    state = whole(engine)
    assert (state.tree, state.known, state.num_known) == (None, b"", 0)
    assert state.holders == bytes([1, 1, 1])
