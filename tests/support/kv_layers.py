"""KV groups and cache layers of given windows, 0 for none."""

from __future__ import annotations

from collections.abc import Iterable

from octavo.engine.kv.kv_groups import KVGroup
from octavo.engine.kv.needs import Full, Window
from octavo.runtime.kv_cache import PagedKV


def layers_of(windows: Iterable[int]) -> list[PagedKV]:
    """Cache layers that are alike but for their windows."""
    return [PagedKV(num_kv_heads=2, key_dim=16, value_dim=16, window=window) for window in windows]


def groups_of(windows: Iterable[int]) -> tuple[KVGroup, ...]:
    """A group for each window."""
    return tuple(KVGroup(Window(window) if window else Full()) for window in windows)


def window_of(group: KVGroup) -> int:
    """How far a group sees, 0 for all."""
    return group.need.tokens if isinstance(group.need, Window) else 0
