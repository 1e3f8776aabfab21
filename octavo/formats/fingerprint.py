"""A name for what files hold that does not take reading them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

_HEAD_BYTES, _SAMPLE_BYTES = 1 << 16, 1 << 12
_SAMPLES = 256
"""How many places are looked at, over all files."""


def fingerprint(files: Iterable[Path]) -> str:
    """A SHA-256 of the sizes, the times of change, the beginnings and some places of `files`, in order.

    Files that were written anew have another; the time is what tells of a change between the places. Raises
    OSError for a file that cannot be read.
    """
    paths = list(files)
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb", buffering=0) as file:
            status = os.fstat(file.fileno())
            digest.update(b"%d %d;" % (status.st_size, status.st_mtime_ns))
            digest.update(os.pread(file.fileno(), _HEAD_BYTES, 0))
            samples = max(2, _SAMPLES // len(paths))
            for number in range(samples):
                place = max(0, status.st_size - _SAMPLE_BYTES) * number // (samples - 1)
                digest.update(os.pread(file.fileno(), _SAMPLE_BYTES, place))
    return digest.hexdigest()
