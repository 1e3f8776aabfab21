"""One KV block in one file: a header that says what it is, then its bytes."""

from __future__ import annotations

import os
import struct
from hashlib import blake2b
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

_MAGIC = b"octavoKV"
_VERSION = 1
_HEADER = struct.Struct("<8sIQ32s32s32s")
"""Magic, version, bytes of the block, key of the model, digest of the block, checksum of its bytes."""


class BadBlockFileError(ValueError):
    """A file that is not, or not any more, the block that its name says."""


def file_bytes(block_bytes: int) -> int:
    """The size of the file of a block of that many bytes."""
    return _HEADER.size + block_bytes


def write_block_file(path: Path, key: bytes, digest: bytes, data: NDArray[np.uint8]) -> None:
    """Write a block to `path`, whole or not at all, so that nobody finds half of one.

    The bytes are not forced to the disk: a killed process loses none that were written, and what a power
    cut leaves half done has the wrong length or checksum. Raises OSError.
    """
    header = _HEADER.pack(_MAGIC, _VERSION, data.nbytes, key, digest, _checksum(data))
    part = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        # What is cached are people's prompts: for the owner's eyes alone.
        with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb", buffering=0) as file:
            file.write(header)
            view = _view(data)
            while view:
                view = view[file.write(view) :]
        part.replace(path)
    except OSError:
        part.unlink(missing_ok=True)
        raise


def read_block_file(path: Path, key: bytes, digest: bytes, block_bytes: int) -> NDArray[np.uint8]:
    """The bytes of the block that `write_block_file` wrote under this key and digest.

    Raises BadBlockFileError for anything else, OSError where it cannot be read.
    """
    data = np.empty(block_bytes, np.uint8)
    with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), "rb", buffering=0) as file:
        if os.fstat(file.fileno()).st_size != file_bytes(block_bytes):
            raise BadBlockFileError(f"{path} does not have the length of a block")
        header, view = file.read(_HEADER.size), _view(data)
        while view and (count := file.readinto(view)):
            view = view[count:]
    if view or header != _HEADER.pack(_MAGIC, _VERSION, block_bytes, key, digest, _checksum(data)):
        raise BadBlockFileError(f"{path} does not hold what its name says")
    return data


def _checksum(data: NDArray[np.uint8]) -> bytes:
    return blake2b(_view(data), digest_size=32).digest()


def _view(data: NDArray[np.uint8]) -> memoryview:
    return memoryview(data)  # type: ignore[arg-type]  # NumPy's stubs lack the buffer protocol before 3.12.
