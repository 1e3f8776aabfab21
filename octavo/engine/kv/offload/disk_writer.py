"""Writes KV blocks to disk beside the steps, and gives up what it cannot keep up with."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from octavo.engine.kv.offload.disk_tier import DiskTier

_log = logging.getLogger(__name__)

_QUIET_SECONDS = 60.0
"""A full disk is reported once in that time."""


class DiskWriter:
    """A thread with a queue of at most `most_blocks` blocks; a step never waits for either."""

    def __init__(self, disk: DiskTier, most_blocks: int) -> None:
        self._disk = disk
        self._most_blocks = most_blocks
        self._queue: OrderedDict[bytes, NDArray[np.uint8]] = OrderedDict()
        self._garbage: list[Path] = []
        self._closing = False
        self._busy = False
        self._changed = threading.Condition()
        self._complained = -_QUIET_SECONDS
        self.num_written = 0
        self.num_dropped = 0
        self._thread = threading.Thread(target=self._run, name="kv-writer", daemon=True)
        self._thread.start()

    @property
    def is_full(self) -> bool:
        """Whether the next block would be dropped."""
        return len(self._queue) >= self._most_blocks

    def __contains__(self, digest: bytes) -> bool:
        """Whether a block waits to be written."""
        return digest in self._queue

    def offer(self, digest: bytes, data: NDArray[np.uint8]) -> None:
        """Write a block when its turn comes; drop it when the queue is full."""
        with self._changed:
            if self.is_full:
                self.num_dropped += 1
                return
            self._queue[digest] = data
            self._changed.notify()

    def clear(self, garbage: Iterable[Path]) -> None:
        """Write nothing of what waits, and remove these files."""
        with self._changed:
            self._queue.clear()
            self._garbage += garbage
            self._changed.notify()

    def flush(self, timeout: float) -> bool:
        """Wait until nothing is left to write, at most `timeout` seconds; whether that is so."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._queue and not self._busy, timeout)

    def close(self) -> None:
        """End the thread after the block that it is at."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join()

    def _run(self) -> None:
        with contextlib.suppress(AttributeError, OSError):
            # On Linux this is the thread's own: kernels go first.
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)
        while True:
            with self._changed:
                self._busy = False
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._queue or self._garbage or self._closing)
                if self._closing:
                    return
                garbage, self._garbage = self._garbage, []
                block = self._queue.popitem(last=False) if self._queue else None
                self._busy = True
            for path in garbage:
                with contextlib.suppress(OSError):
                    path.unlink()
            if block is not None:
                self._write(*block)

    def _write(self, digest: bytes, data: NDArray[np.uint8]) -> None:
        try:
            self._disk.write(digest, data)
            self.num_written += 1
        except OSError as error:
            self.num_dropped += 1
            if time.monotonic() - self._complained > _QUIET_SECONDS:
                self._complained = time.monotonic()
                _log.warning("could not keep a KV block on disk (--kv-offload-dir): %s", error)
