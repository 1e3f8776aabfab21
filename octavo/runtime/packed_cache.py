"""The directory of packed weights: written once for each model, mapped by every later start.

One file a key, written behind a start from the weights in its memory, and renamed into place when it is whole
and safe on the disk. Its time is that of its last use, and those that were used longest ago go when the
directory has grown too large. Processes that start at once wait for the one that packs.
"""

from __future__ import annotations

import fcntl
import logging
import os
import sys
import threading
from pathlib import Path
from typing import IO

from octavo.runtime.packed_file import PackedFile, PackedWeight, write_packed_file

_log = logging.getLogger(__name__)

SMALLEST = 16 << 20
"""Models that pack to fewer bytes are packed at each start: it takes no longer than finding them."""

_FREE_SHARE = 20
"""The file system keeps a twentieth of its size free."""

_LEAST_PRIORITY = 19


class PackedCache:
    """The file of the packed weights that `key` names, about `num_bytes`, in `directory`.

    All files there take at most `max_bytes`.
    """

    def __init__(self, directory: Path, key: str, num_bytes: int, max_bytes: int) -> None:
        self._directory = directory
        self._key = key
        self._num_bytes = num_bytes
        self._max_bytes = max_bytes
        self._path = directory / f"{key}.packed"
        self._claimed: IO[bytes] | None = None

    def open(self) -> PackedFile | None:
        """The file, if there is a good one; one that is not is left to be replaced."""
        try:
            file = PackedFile(self._path, self._key)
            os.utime(self._path)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            _log.warning("Packed weights are not used: %s", error)
            return None
        return file

    def claim(self) -> PackedFile | None:
        """Become the process that writes the file, or get it if another has just made it.

        Waits for one that is at it. Without effect where there is no room or nothing can be written.
        """
        if not SMALLEST <= self._num_bytes <= self._max_bytes:
            return None
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            self._make_room()
            self._claimed = self._lock()
        except OSError as error:
            _log.warning("Packed weights are not kept: %s", error)
            return None
        made = self.open()
        if made:
            self.abandon()
        return made

    def abandon(self) -> None:
        """Let others write the file."""
        if self._claimed:
            self._part.unlink(missing_ok=True)
            self._claimed.close()
            self._claimed = None

    def keep(self, weights: list[PackedWeight]) -> None:
        """Write the file of `weights`, if this process has claimed it, without keeping the caller waiting.

        A thread writes that gets only what the machine has left over. It is no daemon: an end right after the
        start would leave the next one nothing.
        """
        if self._claimed:
            threading.Thread(target=self._write, args=(weights,), name="packed-cache").start()

    def _write(self, weights: list[PackedWeight]) -> None:
        assert self._claimed
        try:
            if sys.platform == "linux":  # where this is the thread's alone
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _LEAST_PRIORITY)
            os.ftruncate(self._claimed.fileno(), 0)
            write_packed_file(self._claimed.fileno(), self._key, weights)
            os.fsync(self._claimed.fileno())
            self._part.rename(self._path)
            self._claimed.close()
            self._claimed = None
        except OSError as error:
            _log.warning("Packed weights are not kept: %s", error)
        finally:
            self.abandon()

    @property
    def _part(self) -> Path:
        return self._path.with_suffix(".part")

    def _lock(self) -> IO[bytes]:
        """The temporary file, locked; waits while another process has it."""
        while True:
            file = self._part.open("ab", buffering=0)
            fcntl.flock(file, fcntl.LOCK_EX)
            try:
                if os.path.samestat(os.fstat(file.fileno()), self._part.stat()):
                    return file
            except FileNotFoundError:
                pass
            file.close()  # it was renamed or removed meanwhile

    def _make_room(self) -> None:
        """Remove what was used longest ago until one more is allowed, and what dead writers left.

        Raises OSError where the file system would get too full. Whoever has a removed file mapped keeps it.
        """
        found = []
        for path in self._directory.iterdir():
            if path.suffix == ".part":
                _remove_unlocked(path)
            elif path.suffix == ".packed":
                status = path.stat()
                found.append((status.st_mtime_ns, status.st_size, path))
        total = self._num_bytes + sum(size for _, size, _ in found)
        for _, size, path in sorted(found):
            if total <= self._max_bytes:
                break
            path.unlink(missing_ok=True)
            total -= size
        system = os.statvfs(self._directory)
        kept_free = system.f_blocks // _FREE_SHARE
        if (system.f_bavail - kept_free) * system.f_frsize < self._num_bytes:
            raise OSError(f"{self._directory} would have too little space left")


def _remove_unlocked(path: Path) -> None:
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink(missing_ok=True)
    except OSError:
        pass  # somebody writes it, or has just removed it
