"""Reads KV blocks from disk beside the steps, for sequences that wait for them."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from weakref import WeakValueDictionary, ref

import numpy as np
from numpy.typing import NDArray

from octavo.engine.kv.offload.disk_tier import DiskTier


class LoadedBlock:
    """A block that is being read; `data` stays None where it could not be."""

    __slots__ = ("__weakref__", "data", "digest", "done")

    def __init__(self, digest: bytes) -> None:
        self.digest = digest
        self.data: NDArray[np.uint8] | None = None
        self.done = False


class Load:
    """The blocks that one sequence waits for; their memory is free again when none holds them."""

    __slots__ = ("_blocks",)

    def __init__(self, blocks: Sequence[LoadedBlock] = ()) -> None:
        self._blocks = {block.digest: block for block in blocks}

    @property
    def done(self) -> bool:
        """Whether all have been read, or could not be."""
        return all(block.done for block in self._blocks.values())

    def get(self, digest: bytes) -> NDArray[np.uint8] | None:
        """The bytes of a block."""
        block = self._blocks.get(digest)
        return None if block is None else block.data


class DiskReader:
    """A thread that reads what `load` asks for; a block that several want is read once.

    Only `collect` changes what was asked for, so that nothing changes while a step is scheduled.
    """

    def __init__(self, disk: DiskTier) -> None:
        self._disk = disk
        self._blocks: WeakValueDictionary[bytes, LoadedBlock] = WeakValueDictionary()
        self._queue: deque[ref[LoadedBlock]] = deque()
        self._finished: deque[tuple[ref[LoadedBlock], NDArray[np.uint8] | None, float]] = deque()
        self._closing = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="kv-reader", daemon=True)
        self._thread.start()

    @property
    def num_held(self) -> int:
        """Blocks that are asked for or read, and that somebody still wants."""
        return len(self._blocks)

    def load(self, digests: Sequence[bytes]) -> Load:
        """Begin to read these blocks of a chain, the last one first: parents are then used last."""
        blocks, new = [], []
        for digest in digests:
            block = self._blocks.get(digest)
            if block is None:
                block = self._blocks[digest] = LoadedBlock(digest)
                new.append(ref(block))
            blocks.append(block)
        with self._changed:
            self._queue.extend(reversed(new))
            self._changed.notify_all()
        return Load(blocks)

    def collect(self) -> Iterator[float]:
        """Take in what has been read; gives the seconds that each block took."""
        while self._finished:
            block, data, seconds = self._finished.popleft()
            if (wanted := block()) is not None:
                wanted.data, wanted.done = data, True
            if data is not None:
                yield seconds

    def wait(self, timeout: float) -> None:
        """Until there is something to collect, at most `timeout` seconds."""
        with self._changed:
            self._changed.wait_for(lambda: self._finished, timeout)

    def close(self) -> None:
        """End the thread after the block that it is at."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._queue or self._closing)
                if self._closing:
                    return
                block = self._queue.popleft()
            wanted = block()
            if wanted is None:
                continue
            digest = wanted.digest
            del wanted  # Or it would stay while nobody else wants it.
            started = time.perf_counter()
            data = self._disk.read(digest)
            with self._changed:
                self._finished.append((block, data, time.perf_counter() - started))
                self._changed.notify_all()
            del data
