"""KV blocks on disk, a file each, found again by a later process."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import time
from collections import OrderedDict
from pathlib import Path
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from octavo.engine.kv.offload.block_file import (
    BadBlockFileError,
    file_bytes,
    read_block_file,
    write_block_file,
)

_log = logging.getLogger(__name__)

_FOLDER = "octavo-kv"
_KEY_NAME = re.compile(r"[0-9a-f]{64}")
_BLOCK_NAME = re.compile(r"[0-9a-f]{64}\.kv")
_PART_NAME = re.compile(r"\.[0-9a-f]{64}\.kv\.[0-9]+\.tmp")
_PART_SECONDS = 600.0
"""A file that is being written longer than that belongs to a process that died."""


class DiskTier:
    """A content-addressed store: `folder/octavo-kv/<key of the model>/<digest of the block>.kv`.

    The files of all models together take at most `max_bytes`; those that were written or read longest ago
    go first, whosever they are. Nothing outside `octavo-kv` is touched. In the folder of its own key what
    is not a block of the right size is removed, and a file is believed only once its header and checksum
    are read. May be called from any thread; two servers may share a folder, each with its own bound.
    """

    def __init__(self, folder: Path, key: bytes, block_bytes: int, max_bytes: int) -> None:
        """`key` (32 bytes) names all that the bytes of a block depend on but its tokens.

        Raises OSError where the folder cannot be made or read.
        """
        self._root = folder / _FOLDER
        self._key = key
        self._block_bytes = block_bytes
        self._max_bytes = max_bytes
        self._lock = Lock()
        self._sizes: OrderedDict[str, int] = OrderedDict()
        """Path below the root -> bytes, the one to remove first in front."""
        self._num_bytes = 0
        self._num_mine = 0
        self._make_folder()
        self._scan()
        self._make_room(0)

    def __len__(self) -> int:
        """Number of blocks that can be found."""
        return self._num_mine

    def __contains__(self, digest: bytes) -> bool:
        return self._name(digest) in self._sizes

    @property
    def num_bytes(self) -> int:
        """What all files take."""
        return self._num_bytes

    def write(self, digest: bytes, data: NDArray[np.uint8]) -> None:
        """Keep a block. Raises OSError where the disk does not take it."""
        name = self._name(digest)
        if name in self._sizes or not self._make_room(file_bytes(self._block_bytes)):
            return
        self._make_folder()  # Somebody may have emptied the place.
        write_block_file(self._root / name, self._key, digest, data)
        self._add(name, file_bytes(self._block_bytes))

    def read(self, digest: bytes) -> NDArray[np.uint8] | None:
        """The bytes of a block; None, and it is forgotten, where its file is gone or bad."""
        name = self._name(digest)
        path = self._root / name
        try:
            data = read_block_file(path, self._key, digest, self._block_bytes)
            os.utime(path)  # The order of use outlives the process.
        except BadBlockFileError as error:
            _log.warning("removed a block: %s", error)
            self._drop(name)
            _remove(path)
            return None
        except OSError as error:
            if not isinstance(error, FileNotFoundError):
                _log.warning("could not read a block: %s", error)
            self._drop(name)
            return None
        with self._lock:
            if name in self._sizes:
                self._sizes.move_to_end(name)
        return data

    def forget(self) -> list[Path]:
        """Find none of the model's blocks any more; returns the files, for the caller to remove."""
        with self._lock:
            mine = [name for name in self._sizes if name.startswith(self._key.hex())]
        for name in mine:
            self._drop(name)
        return [self._root / name for name in mine]

    def _name(self, digest: bytes) -> str:
        return f"{self._key.hex()}/{digest.hex()}.kv"

    def _make_folder(self) -> None:
        (self._root / self._key.hex()).mkdir(mode=0o700, parents=True, exist_ok=True)

    def _add(self, name: str, size: int) -> None:
        with self._lock:
            if name not in self._sizes:
                self._sizes[name] = size
                self._num_bytes += size
                self._num_mine += name.startswith(self._key.hex())

    def _drop(self, name: str) -> None:
        with self._lock:
            if name in self._sizes:
                self._num_bytes -= self._sizes.pop(name)
                self._num_mine -= name.startswith(self._key.hex())

    def _make_room(self, size: int) -> bool:
        """Remove the oldest files until there is room for `size` bytes; False where there never is."""
        if size > self._max_bytes:
            return False
        while True:
            with self._lock:
                if self._num_bytes + size <= self._max_bytes:
                    return True
                oldest = next(iter(self._sizes))
            self._drop(oldest)
            _remove(self._root / oldest)

    def _scan(self) -> None:
        """Take in what earlier processes left."""
        found: list[tuple[float, str, int]] = []
        expired = time.time() - _PART_SECONDS
        for folder in os.scandir(self._root):
            if not _KEY_NAME.fullmatch(folder.name) or not folder.is_dir(follow_symlinks=False):
                continue
            mine = folder.name == self._key.hex()
            for file in os.scandir(folder.path):
                with contextlib.suppress(FileNotFoundError):
                    if not file.is_file(follow_symlinks=False):
                        continue
                    status = file.stat(follow_symlinks=False)
                    right_size = not mine or status.st_size == file_bytes(self._block_bytes)
                    if _BLOCK_NAME.fullmatch(file.name) and right_size:
                        found.append((status.st_mtime, f"{folder.name}/{file.name}", status.st_size))
                    elif _PART_NAME.fullmatch(file.name):
                        if status.st_mtime < expired:
                            _remove(Path(file.path))
                    elif mine:
                        _log.warning("removed %s, which is not a block", file.path)
                        _remove(Path(file.path))
        for _, name, size in sorted(found):
            self._add(name, size)


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()
    # The last block of another model: its folder has no more use.
    with contextlib.suppress(OSError):
        path.parent.rmdir()
