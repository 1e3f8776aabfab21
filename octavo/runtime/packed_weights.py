"""Linear weights in the kernels' layout: mapped from the cache where they are there, else packed.

Weights are made, packed and dropped one after the other, a few ahead of the packing, so that a model takes
little more memory while it is loaded than afterwards.
"""

from __future__ import annotations

import contextlib
import mmap
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from octavo.formats.mapped import drop_pages
from octavo.formats.tensor import Tensor
from octavo.runtime import _native
from octavo.runtime.packed_cache import PackedCache
from octavo.runtime.packed_file import PackedWeight

PANEL_ROWS = 16
LAYOUT = 4
"""Part of the cache's key: to be raised when packed bytes change their meaning, or raw ones their packing."""

_ORDER = ":order"
"""Ends the name of what is kept beside a weight whose columns are not in order: `Tensor.order`."""

_NO_ORDER = np.empty(0, np.int32)

_CHUNK_BYTES = 256 << 20
"""Each may leave one huge page partly unused."""


def add_packed_weights(
    native: _native.Program,
    names: Sequence[str],
    weights: Mapping[str, Tensor],
    cache: PackedCache | None,
) -> None:
    """Give `native` the weights `names`, packed, through the cache if there is one."""
    file = (cache.open() or cache.claim()) if cache else None
    packed = {} if file is None else file.weights
    if file and packed.keys() >= set(names):
        for name in names:
            each = packed[name]
            kept = packed.get(name + _ORDER)
            order = _NO_ORDER if kept is None else file.panels(kept).view(np.int32)
            native.add_packed(name, each.encoding, each.rows, each.cols, file.panels(each), order)
        return
    try:
        made = list(_packed(native, _ahead(names, weights, native.threads)))
    except BaseException:
        if cache:
            cache.abandon()
        raise
    orders = {weight.name: weight.panels.view(np.int32) for weight in made if weight.name.endswith(_ORDER)}
    for weight in made:
        if weight.name not in orders:
            native.add_packed(*weight, orders.get(weight.name + _ORDER, _NO_ORDER))
    if cache:
        cache.keep(made)


def _packed(native: _native.Program, tensors: Iterator[tuple[str, Tensor]]) -> Iterator[PackedWeight]:
    memory = _Memory()
    for name, tensor in tensors:
        panels = memory.take(_num_panels(tensor) * _panel_bytes(tensor))
        native.pack(tensor.encoding.value, *_matrix(tensor), np.ascontiguousarray(tensor.data), 0, panels)
        drop_pages(tensor.data)
        yield PackedWeight(name, tensor.encoding.value, *_matrix(tensor), panels)
        if tensor.order is not None:
            yield PackedWeight(name + _ORDER, "I32", 1, len(tensor.order), tensor.order.view(np.uint8))


def _ahead(names: Sequence[str], weights: Mapping[str, Tensor], threads: int) -> Iterator[tuple[str, Tensor]]:
    """The weights in order; a few of those that follow are made meanwhile."""
    with ThreadPoolExecutor(threads) as pool:
        coming: deque[tuple[str, Future[Tensor]]] = deque()
        for name in names:
            coming.append((name, pool.submit(_fetched, weights, name)))
            if len(coming) > threads:
                yield _done(coming.popleft())
        while coming:
            yield _done(coming.popleft())


def _fetched(weights: Mapping[str, Tensor], name: str) -> Tensor:
    tensor = weights[name]
    _native.fetch(tensor.data)
    return tensor


def _done(coming: tuple[str, Future[Tensor]]) -> tuple[str, Tensor]:
    return coming[0], coming[1].result()


class _Memory:
    """Memory in huge pages where there are some: weights lie one behind the other."""

    def __init__(self) -> None:
        self._rest = np.empty(0, np.uint8)

    def take(self, num_bytes: int) -> NDArray[np.uint8]:
        """The next `num_bytes`, at a multiple of 64."""
        aligned = -(-num_bytes // 64) * 64
        if aligned > len(self._rest):
            chunk = mmap.mmap(-1, max(aligned, _CHUNK_BYTES), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            with contextlib.suppress(AttributeError, OSError):  # a system or a kernel without huge pages
                chunk.madvise(mmap.MADV_HUGEPAGE)
            self._rest = np.frombuffer(chunk, np.uint8)
        taken, self._rest = self._rest[:num_bytes], self._rest[aligned:]
        return taken


def _matrix(tensor: Tensor) -> tuple[int, int]:
    return tensor.rows, tensor.shape[-1]


def _num_panels(tensor: Tensor) -> int:
    return -(-tensor.rows // PANEL_ROWS)


def _panel_bytes(tensor: Tensor) -> int:
    return _native.panel_bytes(tensor.encoding.value, tensor.shape[-1])
