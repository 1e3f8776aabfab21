"""Files mapped into memory."""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


def map_file(path: Path) -> mmap.mmap:
    """`path`, mapped read-only: its pages are read on first touch and shared between processes.

    Raises ValueError naming the file when it cannot be opened or is empty.
    """
    try:
        with path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise ValueError(f"{path}: cannot read: {error.strerror}") from error
    except ValueError as error:
        raise ValueError(f"{path}: the file is empty") from error


def drop_pages(array: NDArray[Any]) -> None:
    """Give back the memory of an array that is a view of a file mapped by `map_file`; of another, nothing.

    The array stays good: what is read again comes from the page cache, or from the disk. Pages at its ends
    that it shares with its neighbours stay.
    """
    owner: Any = array
    while isinstance(owner, np.ndarray):
        owner = owner.base
    if isinstance(owner, memoryview):
        owner = owner.obj
    if not isinstance(owner, mmap.mmap) or not array.flags.c_contiguous:
        return
    page = mmap.PAGESIZE
    offset = array.ctypes.data - np.frombuffer(owner, np.uint8, 1).ctypes.data
    start, end = -(-offset // page) * page, (offset + array.nbytes) // page * page
    if end > start:
        owner.madvise(mmap.MADV_DONTNEED, start, end - start)
