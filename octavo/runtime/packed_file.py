"""Packed weights in a file: the panels one weight after another, then an index, then how long that is.

    panels | index: JSON | index bytes: u64 | SHA-256 of the index | magic
    index: {"key": ..., "weights": [[name, encoding, rows, cols, offset, bytes], ...]}

Offsets are multiples of 64. A file is good if it ends in a sound index of the expected key whose weights end
where the index begins: nothing else is read before a kernel does.
"""

from __future__ import annotations

import contextlib
import mmap
import os
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

MAGIC = b"octavo-packed-1\n"
_TRAILER_BYTES = 8 + 32 + len(MAGIC)
_MAX_INDEX_BYTES = 64 << 20
_ALIGNMENT = 64
_HUGE_PAGE = 2 << 20
_BATCH_BYTES = 16 * _HUGE_PAGE
_MAX_PIECES = 512
"""Of one write: what all systems take."""


class PackedTensor(msgspec.Struct, frozen=True, array_like=True):
    """Where a weight's panels lie in the file."""

    name: str
    encoding: str
    rows: int
    cols: int
    offset: int
    num_bytes: int


class _Index(msgspec.Struct, frozen=True):
    key: str
    weights: list[PackedTensor]


class PackedFile:
    """A mapped file of packed weights: its pages are those of the page cache, shared by all processes.

    Raises ValueError for a file that is not whole, not sound, or of another key; OSError if it is not
    readable.
    """

    def __init__(self, path: Path, key: str) -> None:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size < _TRAILER_BYTES:
                raise ValueError(f"{path}: too short")
            self._map = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
        index_bytes = int.from_bytes(self._map[-_TRAILER_BYTES : 8 - _TRAILER_BYTES], "little")
        if self._map[-len(MAGIC) :] != MAGIC or index_bytes > min(_MAX_INDEX_BYTES, size - _TRAILER_BYTES):
            raise ValueError(f"{path}: not a file of packed weights")
        end = size - _TRAILER_BYTES - index_bytes
        text = self._map[end : end + index_bytes]
        if sha256(text).digest() != self._map[8 - _TRAILER_BYTES : 40 - _TRAILER_BYTES]:
            raise ValueError(f"{path}: its index is broken")
        index = msgspec.json.decode(text, type=_Index)
        if index.key != key:
            raise ValueError(f"{path}: the weights of another model")
        place = 0
        for each in index.weights:
            if each.offset < place or each.num_bytes < 0:
                raise ValueError(f"{path}: weight {each.name!r} is out of place")
            place = each.offset + each.num_bytes
        if _aligned(place) != end:
            raise ValueError(f"{path}: its weights do not end where they should")
        self.weights = {each.name: each for each in index.weights}
        self._advise(end)

    def _advise(self, end: int) -> None:
        """2 MiB pages where the file system has them in its cache, and reading ahead from a cold disk."""
        for advice in ("MADV_HUGEPAGE", "MADV_WILLNEED"):
            with contextlib.suppress(AttributeError, OSError):  # it is advice, and not every system's
                self._map.madvise(getattr(mmap, advice), 0, end)

    def panels(self, tensor: PackedTensor) -> NDArray[np.uint8]:
        """The bytes of a weight's panels, a view of the mapped file."""
        return np.frombuffer(self._map, np.uint8, tensor.num_bytes, tensor.offset)


class PackedWeight(NamedTuple):
    """A weight's panels in memory."""

    name: str
    encoding: str
    rows: int
    cols: int
    panels: NDArray[np.uint8]


def write_packed_file(file: int, key: str, weights: Iterable[PackedWeight]) -> None:
    """Write a whole file of `weights` to the file descriptor; it is not yet safe on the disk.

    Writes of aligned 2 MiB let the page cache hold the file in huge pages; the panels are not copied to get
    there, and the interpreter is held only between writes. Raises OSError.
    """
    entries = []
    batch: list[memoryview] = []
    place = room = 0
    for name, encoding, rows, cols, panels in weights:
        entries.append(PackedTensor(name, encoding, rows, cols, place, panels.nbytes))
        padding = bytes(_aligned(panels.nbytes) - panels.nbytes)
        for part in (memoryview(panels.data), memoryview(padding)):
            start = 0
            while start < len(part):
                if not room or len(batch) == _MAX_PIECES:
                    _write(file, batch)
                    batch, room = [], _BATCH_BYTES - place % _HUGE_PAGE
                taken = part[start : start + room]
                batch.append(taken)
                start, place, room = start + len(taken), place + len(taken), room - len(taken)
    text = msgspec.json.encode(_Index(key, entries))
    _write(file, batch)
    _write(file, [memoryview(text + len(text).to_bytes(8, "little") + sha256(text).digest() + MAGIC)])


def _write(file: int, batch: list[memoryview]) -> None:
    while batch:
        written = os.writev(file, batch)
        while batch and written >= len(batch[0]):
            written -= len(batch.pop(0))
        if written:
            batch[0] = batch[0][written:]


def _aligned(place: int) -> int:
    return -(-place // _ALIGNMENT) * _ALIGNMENT
