"""A file that is written piece by piece, may be left at any time, and is gone on with later.

The header is written first and says where each piece goes. Until all are there the file is `NAME.part`, and
`NAME.journal` names the pieces that are; then the first takes its name, at once, and the second goes.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


class PartialFile:
    """The file `path`: `header`, then the arrays of each weight at the places and of the sizes in `spans`.

    `job` is what has to be the same for pieces of an earlier run to be kept. Raises ValueError when the file
    cannot be written.
    """

    def __init__(
        self, path: Path, header: bytes, spans: Mapping[str, list[tuple[int, int]]], size: int, job: str
    ) -> None:
        self.path = path
        self.part = path.with_name(path.name + ".part")
        self._journal_path = path.with_name(path.name + ".journal")
        self._spans = spans
        self.done: set[str] = set()
        try:
            self._open(header, size, job)
        except OSError as error:
            raise ValueError(f"{path}: cannot write: {error.strerror}") from error

    def _open(self, header: bytes, size: int, job: str) -> None:
        if self.path.exists():
            self.done = set(self._spans)
            return
        lines = self._journal_path.read_text().splitlines() if self._journal_path.is_file() else []
        kept = lines[:1] == [job] and self.part.is_file() and self.part.stat().st_size == size
        self._file = self.part.open("r+b" if kept else "w+b")
        if kept:
            self.done = {name for name in lines[1:] if name in self._spans}
        else:
            self._file.truncate(size)
            self._file.write(header)
        self._journal = self._journal_path.open("a" if kept else "w")
        if not kept:
            self._journal.write(job + "\n")
            self._journal.flush()

    def write(self, name: str, arrays: Sequence[NDArray[Any]]) -> None:
        """Put the bytes of each array in its place; raises OSError where the disk is full."""
        for (start, size), array in zip(self._spans[name], arrays, strict=True):
            assert array.nbytes == size, f"{name}: {array.nbytes} bytes where {size} belong"
            self._file.seek(start)
            self._file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        self._file.flush()
        # What the journal names has to be there after a power cut, too.
        os.fdatasync(self._file.fileno())
        self._journal.write(name + "\n")
        self._journal.flush()
        self.done.add(name)

    def finish(self) -> None:
        """Give the file its name; every piece has to be written."""
        missing = set(self._spans) - self.done
        assert not missing, f"{self.path}: {missing} were not written"
        if not self.path.exists():
            self._file.close()
            self._journal.close()
            self.part.replace(self.path)
        self._journal_path.unlink(missing_ok=True)

    @property
    def readable(self) -> Path:
        """The file as it is now, zeros where nothing was written."""
        return self.path if self.path.exists() else self.part
