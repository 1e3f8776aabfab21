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
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from octavo import _native
from octavo.formats.mapped import drop_pages
from octavo.formats.panels import PANEL_ROWS, MakesPanels, PanelRows
from octavo.formats.tensor import Tensor
from octavo.runtime.packed_cache import PackedCache
from octavo.runtime.packed_file import PackedWeight

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
        made = list(_packed(native, names, weights))
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


def _packed(
    native: _native.Program, names: Sequence[str], weights: Mapping[str, Tensor]
) -> Iterator[PackedWeight]:
    """The weights in order. Panels that are made at once, and Tensors to pack, are made a little ahead."""
    memory = _Memory()
    coming: deque[_Coming] = deque()
    # Some wait for the disk while others compute.
    with ThreadPoolExecutor(2 * native.threads) as pool:
        try:
            for name in names:
                rows = weights.panel_rows(name) if isinstance(weights, MakesPanels) else None
                if rows:
                    coming.append(_filling(pool, memory, name, rows))
                else:
                    coming.append(_Coming(name, pool.submit(_fetched, weights, name)))
                if len(coming) > native.threads:
                    yield from _finished(native, memory, coming.popleft())
            while coming:
                yield from _finished(native, memory, coming.popleft())
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


@dataclass(frozen=True, slots=True)
class _Coming:
    """A weight that is being made: a Tensor, or panels that are filled a piece at a time."""

    name: str
    tensor: Future[Tensor] | None = None
    packed: PackedWeight | None = None
    pieces: Sequence[Future[None]] = ()


def _filling(pool: ThreadPoolExecutor, memory: _Memory, name: str, rows: PanelRows) -> _Coming:
    panel_bytes = _native.panel_bytes(rows.encoding.value, rows.shape[1])
    panels = memory.take(-(-rows.shape[0] // PANEL_ROWS) * panel_bytes)
    pieces = []
    for each in rows.slices():
        part = panels[each.start // PANEL_ROWS * panel_bytes : -(-each.stop // PANEL_ROWS) * panel_bytes]
        pieces.append(pool.submit(rows.fill, each, part))
    return _Coming(name, packed=PackedWeight(name, rows.encoding.value, *rows.shape, panels), pieces=pieces)


def _finished(native: _native.Program, memory: _Memory, coming: _Coming) -> Iterator[PackedWeight]:
    for piece in coming.pieces:
        piece.result()
    if coming.packed:
        yield coming.packed
        return
    assert coming.tensor
    tensor = coming.tensor.result()
    panels = memory.take(_num_panels(tensor) * _panel_bytes(tensor))
    native.pack(tensor.encoding.value, *_matrix(tensor), np.ascontiguousarray(tensor.data), 0, panels)
    drop_pages(tensor.data)
    yield PackedWeight(coming.name, tensor.encoding.value, *_matrix(tensor), panels)
    if tensor.order is not None:
        order = tensor.order.view(np.uint8)
        yield PackedWeight(coming.name + _ORDER, "I32", 1, len(tensor.order), order)


def _fetched(weights: Mapping[str, Tensor], name: str) -> Tensor:
    tensor = weights[name]
    _native.fetch(tensor.data)
    return tensor


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
