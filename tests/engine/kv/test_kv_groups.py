"""How layers are cut into groups, and what sequences need in them."""

from __future__ import annotations

from itertools import chain

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.kv_layers import groups_of, layers_of, window_of
from support.scheduler_rig import Rig, make_sequence, settings_of

from octavo.engine.kv.block_pool import blocks_for
from octavo.engine.kv.kv_groups import (
    MAX_GROUPS,
    KVGroup,
    kv_groups,
    longest_sequence,
    most_blocks,
    room_in_tokens,
)
from octavo.engine.kv.needs import Window
from octavo.runtime.kv_cache import KVCacheSpec, PagedKV

LONG = 32_768


def sizes(windows: tuple[int, ...], max_model_len: int = LONG) -> list[tuple[int, int]]:
    """(window, number of layers) of each group."""
    return [(window_of(group), len(group.layers)) for group in kv_groups(layers_of(windows), max_model_len)]


@pytest.mark.parametrize(
    ("windows", "expected"),
    [
        ((0,) * 4, [(0, 4)]),
        ((512,) * 4, [(512, 4)]),
        ((512, 256), [(512, 1), (256, 1)]),
        ((LONG, 0, 0), [(0, 3)]),  # No sequence is longer: the window is none.
        ((4096, 0) * 13, [(0, 13), (4096, 13)]),  # Gemma 2 2B
        (((512,) * 5 + (0,)) * 4 + (512,) * 2, [(0, 4)] + [(512, 4)] * 5 + [(512, 2)]),  # Gemma 3 1B
        ((0,) * 21 + (4096,) * 7, [(0, 7)] * 3 + [(4096, 7)]),  # Qwen2 with max_window_layers
        ((0,) * 27 + (4096,), [(0, 28)]),  # One layer of many is not worth it.
    ],
)
def test_cuts(windows: tuple[int, ...], expected: list[tuple[int, int]]):
    assert sizes(windows) == expected


@given(
    windows=st.lists(st.sampled_from([0, 0, 40, 512, 4096]), min_size=1, max_size=60).map(tuple),
    max_model_len=st.integers(1, 20_000),
)
def test_every_layer_is_in_one_group_that_keeps_what_it_sees(windows: tuple[int, ...], max_model_len: int):
    groups = kv_groups(layers_of(windows), max_model_len)
    assert sorted(chain.from_iterable(group.layers for group in groups)) == list(range(len(windows)))
    assert len(groups) <= MAX_GROUPS
    for group in groups:
        for layer in group.layers:
            seen = windows[layer] or max_model_len
            assert group.need.keeps_all or seen <= window_of(group)
    planes = max(len(group.layers) for group in groups)
    assert planes * most_blocks(groups, max_model_len, 1) <= len(windows) * blocks_for(max_model_len)


@given(
    groups=st.lists(st.sampled_from([0, 1, 16, 17, 40]), min_size=1, max_size=3),
    num_blocks=st.integers(1, 60),
    chunk=st.integers(1, 50),
    most=st.integers(1, 400),
)
def test_the_longest_sequence_is_the_last_that_fits(
    groups: list[int], num_blocks: int, chunk: int, most: int
):
    of_windows = groups_of(groups)
    longest = longest_sequence(of_windows, num_blocks, chunk, most)
    assert 0 <= longest <= most
    assert most_blocks(of_windows, longest, chunk) <= num_blocks
    assert longest == most or most_blocks(of_windows, longest + 1, chunk) > num_blocks


@given(
    layers=st.lists(
        st.builds(
            PagedKV,
            num_kv_heads=st.integers(1, 4),
            key_dim=st.sampled_from([16, 64, 128]),
            value_dim=st.sampled_from([16, 64]),
            window=st.sampled_from([0, 40, 512]),
        ),
        min_size=1,
        max_size=30,
    ),
    max_model_len=st.integers(1, 20_000),
)
def test_layers_of_unlike_sizes_take_no_more_memory_than_in_one_group(
    layers: list[PagedKV], max_model_len: int
):
    groups = kv_groups(layers, max_model_len)
    assert sorted(chain.from_iterable(group.layers for group in groups)) == list(range(len(layers)))
    assert len(groups) <= MAX_GROUPS
    cut = KVCacheSpec(tuple(layers), "float16", tuple(group.layers for group in groups))
    whole = KVCacheSpec(tuple(layers), "float16")
    held = cut.block_bytes * most_blocks(groups, max_model_len, 1)
    assert held <= whole.block_bytes * blocks_for(max_model_len)


def test_few_wide_layers_that_see_all_share_blocks_with_many_narrow_ones():
    wide = PagedKV(num_kv_heads=4, key_dim=128, value_dim=128)
    narrow = PagedKV(num_kv_heads=2, key_dim=64, value_dim=64, window=512)
    groups = kv_groups([wide, *[narrow] * 4, wide, *[narrow] * 4], LONG)
    assert [len(group.layers) for group in groups] == [2, 8]
    assert [group.need.keeps_all for group in groups] == [True, False]


def test_room_is_counted_in_tokens_of_long_sequences():
    assert room_in_tokens((KVGroup(),), 20, 100, 64) == 320
    hybrid = (KVGroup(), KVGroup(Window(64)))
    assert most_blocks(hybrid, 1600, 1) == 100 + 5
    assert room_in_tokens(hybrid, 210, 1600, 1) == 3200


@settings(max_examples=25, deadline=None)
@given(
    windows=st.lists(st.sampled_from([0, 1, 16, 17, 100]), min_size=1, max_size=3),
    prompt=st.integers(1, 500),
    budget=st.integers(1, 300),
    caching=st.booleans(),
)
def test_what_a_long_sequence_holds_is_bounded_by_its_windows(
    windows: list[int], prompt: int, budget: int, caching: bool
):
    """While its prompt is computed those of a chunk more, and when it decodes those of the window alone."""
    groups, length = groups_of(windows), 600
    rig = Rig(
        settings_of(budget=budget, kv_groups=groups), most_blocks(groups, length, budget), caching=caching
    )
    sequence = make_sequence(0, [7] * prompt, length - prompt, max_model_len=length)
    rig.add(sequence)
    while rig.unfinished:
        rig.step()
        decodes = len(sequence) - sequence.num_computed_tokens == 1
        chunk = 1 if decodes else budget
        for group, table in zip(groups, sequence.tables, strict=False):
            assert len(table.held) <= group.need.most_blocks(length, chunk)
    assert rig.pool.num_free == rig.num_blocks
    assert not rig.scheduler.num_preemptions
