"""Map a checkpoint's file into memory."""

from __future__ import annotations

import mmap
from pathlib import Path


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
