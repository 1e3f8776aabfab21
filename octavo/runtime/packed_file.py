"""Packed weights in a file: the panels one weight after another, then an index, then how long that is.

    panels | index: JSON | index bytes: u64 | SHA-256 of the index | magic
    index: {"key": ..., "weights": [[name, encoding, rows, cols, offset, bytes], ...]}

Offsets are multiples of 64. A file is good if it ends in a sound index of the expected key whose weights end
where the index begins: nothing else is read before a kernel does.
"""

from __future__ import annotations

import contextlib
import hashlib
import mmap
import os
from pathlib import Path
from typing import IO

import msgspec
import numpy as np
from numpy.typing import NDArray

MAGIC = b"octavo-packed-1\n"
_TRAILER_BYTES = 8 + 32 + len(MAGIC)
_MAX_INDEX_BYTES = 64 << 20
_ALIGNMENT = 64
_HUGE_PAGE = 2 << 20
_BUFFER_BYTES = 4 * _HUGE_PAGE


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
        if hashlib.sha256(text).digest() != self._map[8 - _TRAILER_BYTES : 40 - _TRAILER_BYTES]:
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
        for advice in (mmap.MADV_HUGEPAGE, mmap.MADV_WILLNEED):
            with contextlib.suppress(OSError):  # it is advice
                self._map.madvise(advice, 0, end)

    def panels(self, tensor: PackedTensor) -> NDArray[np.uint8]:
        """The bytes of a weight's panels, a view of the mapped file."""
        return np.frombuffer(self._map, np.uint8, tensor.num_bytes, tensor.offset)


class PackedFileWriter:
    """Writes the panels of one weight after another, then the index."""

    def __init__(self, file: IO[bytes], key: str) -> None:
        self._file = file  # unbuffered
        self._key = key
        self._weights: list[PackedTensor] = []
        self._buffer = np.empty(_BUFFER_BYTES, np.uint8)
        self._used = 0
        self._written = 0

    def begin(self, name: str, encoding: str, rows: int, cols: int, num_bytes: int) -> None:
        """Say what the panels that come next are of."""
        self._pad()
        place = self._written + self._used
        self._weights.append(PackedTensor(name, encoding, rows, cols, place, num_bytes))

    def reserve(self, least: int, most: int) -> NDArray[np.uint8]:
        """Memory for the next bytes of the file, as much of `most` as there is, but `least` at least."""
        if self._used + least > len(self._buffer):
            self._flush(_HUGE_PAGE)
        if self._used + least > len(self._buffer):
            larger = np.empty(self._used + least, np.uint8)
            larger[: self._used] = self._buffer[: self._used]
            self._buffer = larger
        return self._buffer[self._used : self._used + most]

    def advance(self, num_bytes: int) -> None:
        """The first `num_bytes` of what `reserve` gave are filled."""
        self._used += num_bytes

    def finish(self) -> None:
        """Write the rest. The file is whole then, but not yet safe on the disk."""
        self._pad()
        self._flush(1)
        text = msgspec.json.encode(_Index(self._key, self._weights))
        self._write(text + len(text).to_bytes(8, "little") + hashlib.sha256(text).digest() + MAGIC)

    def _pad(self) -> None:
        gap = _aligned(self._used) - self._used  # what is written are whole huge pages: aligned too
        if gap:
            self.reserve(gap, gap)[:gap] = 0
            self.advance(gap)

    def _flush(self, multiple: int) -> None:
        """Write whole multiples: pieces of aligned 2 MiB let the page cache hold the file in huge pages."""
        count = self._used // multiple * multiple
        self._write(self._buffer[:count].data)
        self._written += count
        self._buffer[: self._used - count] = self._buffer[count : self._used].copy()
        self._used -= count

    def _write(self, data: bytes | memoryview) -> None:
        view = memoryview(data)
        while view:
            view = view[self._file.write(view) :]


def _aligned(place: int) -> int:
    return -(-place // _ALIGNMENT) * _ALIGNMENT
