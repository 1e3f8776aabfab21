"""The tiers behind the prefix cache: what falls out of it goes there, and comes back when that pays."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from octavo.engine.kv.offload.disk_reader import DiskReader, Load
from octavo.engine.kv.offload.disk_tier import DiskTier
from octavo.engine.kv.offload.disk_writer import DiskWriter
from octavo.engine.kv.offload.host_tier import HostTier
from octavo.engine.kv.offload.restore_cost import RestoreCost
from octavo.engine.kv.prefix_cache import PrefixCache
from octavo.engine.messages import OffloadStats
from octavo.engine.step_time import StepTime
from octavo.runtime.backend import Executable
from octavo.runtime.kv_cache import BLOCK_SIZE

_QUEUE_BYTES = 64 << 20
"""Most that waits to be written to disk."""
_LOAD_BYTES = 256 << 20
"""Most that is read from disk ahead of its use, where the host tier is not larger."""
_SAVED_AT_ONCE = 8
_RETRY_SECONDS = 0.01
_FLUSH_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class Restore:
    """`blocks` are to be filled with `data`, one each, before the step runs."""

    blocks: list[int]
    data: list[NDArray[np.uint8]]


class KVOffload:
    """Host memory, then disk. Blocks have the prefix cache's names there, so what is found is exact.

    A full block that the pool hands out again is copied to the host tier and queued for the disk. Between
    requests those that the disk lacks follow, so that it outlives the process with all that was computed.
    On the way back blocks from disk are read by a thread while their sequence waits, and either kind is
    copied into new blocks before the step. Both ways are taken only where `RestoreCost` says that computing
    would take longer.
    """

    def __init__(
        self, executable: Executable, block_bytes: int, host: HostTier, disk: DiskTier | None = None
    ) -> None:
        """`executable` reads and writes its blocks, of `block_bytes` bytes each."""
        self._executable = executable
        self._host = host
        self._disk = disk
        self._writer: DiskWriter | None = None
        self._reader: DiskReader | None = None
        if disk is not None:
            self._writer = DiskWriter(disk, max(_QUEUE_BYTES // block_bytes, 1))
            self._reader = DiskReader(disk)
        self._most_loads = max(_LOAD_BYTES // block_bytes, host.num_blocks)
        self._cost = RestoreCost(StepTime())
        self._cache: PrefixCache | None = None
        self._unsaved: dict[bytes, None] = {}
        self._probe: Load | None = None
        self._stats = OffloadStats()

    def attach(self, cache: PrefixCache, step_time: StepTime) -> None:
        """Serve this cache; `step_time` says what computing takes."""
        self._cache = cache
        self._cost = RestoreCost(step_time)
        cache.on_evict(self._evicted)
        if self._writer is not None:
            cache.on_insert(self._inserted)

    def has(self, digest: bytes, load: Load | None) -> bool:
        """Whether a block is in memory, that of `load` included."""
        return self._find(digest, load) is not None

    def may_have(self, digest: bytes) -> bool:
        """Whether a block is in memory or on disk."""
        return digest in self._host or (self._disk is not None and digest in self._disk)

    def is_worth_it(self, num_blocks: int, num_tokens: int, context: int) -> bool:
        """Whether blocks that are in memory are restored faster than tokens after `context` are computed."""
        return self._cost.is_worth_it(num_blocks, 0, num_tokens, context)

    def take(self, digests: Sequence[bytes], load: Load | None) -> list[NDArray[np.uint8]]:
        """The bytes of blocks that it `has`."""
        taken = []
        for digest in digests:
            data = self._find(digest, load)
            assert data is not None
            taken.append(data)
            if digest in self._host:
                self._stats.restored_from_host += 1
            else:
                self._stats.restored_from_disk += 1
        self._host.touch(reversed(digests))
        return taken

    @property
    def most_reads(self) -> int:
        """How many more blocks may be read from disk."""
        return 0 if self._reader is None else max(0, self._most_loads - self._reader.num_held)

    def num_reads(self, digests: Sequence[bytes]) -> int:
        """How many of these blocks would have to be read from disk."""
        return sum(digest not in self._host for digest in digests)

    def load(self, digests: Sequence[bytes], num_tokens: int, context: int) -> Load:
        """Begin to read from disk those of `digests` that are not in memory, at most `most_reads`.

        With all of them `num_tokens` tokens after `context` need not be computed. A `Load` that is done at
        once where there are none, or it is not worth it.
        """
        missing = [digest for digest in digests if digest not in self._host]
        if self._reader is None or not missing:
            return Load()
        num_reads = self._reader.num_held + len(missing)
        if self._cost.is_worth_it(len(digests), num_reads, num_tokens, context):
            return self._reader.load(missing)
        if self._probe is None or self._probe.done:
            # The disk may have become faster: that shows only when something is read.
            self._probe = self._reader.load(missing[:1])
        return Load()

    def collect(self) -> None:
        """Take in what has been read from disk since the last step."""
        if self._reader is not None:
            for seconds in self._reader.collect():
                self._cost.observe_read(seconds)

    def wait(self, timeout: float) -> None:
        """Until something has been read from disk, at most `timeout` seconds."""
        if self._reader is not None:
            self._reader.wait(timeout)

    def restore(self, restores: list[Restore]) -> None:
        """Fill the blocks."""
        for restore in restores:
            started = time.perf_counter()
            for block, data in zip(restore.blocks, restore.data, strict=True):
                self._executable.write_blocks([block], data[None])
            self._cost.observe_write((time.perf_counter() - started) / len(restore.blocks))

    def save_some(self) -> float | None:
        """Queue a few blocks that the disk lacks; the seconds until there may be more to do, None if never.

        For when there is nothing else to do.
        """
        if self._writer is None:
            return None
        for _ in range(_SAVED_AT_ONCE):
            if not self._unsaved:
                return None
            if self._writer.is_full:
                return _RETRY_SECONDS
            assert self._cache is not None
            digest, _ = self._unsaved.popitem()  # The newest first: a chain's end before its beginning.
            block = self._cache.find(digest)
            if block is not None:
                self._to_disk(digest, self._read(block))
        return 0.0

    def clear(self) -> None:
        """Forget every block."""
        self._host.clear()
        self._unsaved.clear()
        if self._disk is not None and self._writer is not None:
            self._writer.clear(self._disk.forget())

    def close(self) -> None:
        """Save what there is time for, and end the threads."""
        if self._writer is None or self._reader is None:
            return
        deadline = time.monotonic() + _FLUSH_SECONDS
        while (wait := self.save_some()) is not None and time.monotonic() < deadline:
            time.sleep(wait)
        self._writer.flush(max(0.0, deadline - time.monotonic()))
        self._writer.close()
        self._reader.close()

    def stats(self) -> OffloadStats:
        """Totals and what the tiers hold."""
        stats = msgspec.structs.replace(self._stats)
        stats.host_blocks = len(self._host)
        if self._disk is not None and self._writer is not None:
            stats.disk_blocks = len(self._disk)
            stats.disk_bytes = self._disk.num_bytes
            stats.written = self._writer.num_written
            stats.dropped = self._writer.num_dropped
        return stats

    def count(self, num_queried: int, num_restored_blocks: int) -> None:
        """A new sequence looked for so many tokens that the prefix cache did not have, and got blocks."""
        self._stats.queries += num_queried
        self._stats.hits += num_restored_blocks * BLOCK_SIZE

    def _find(self, digest: bytes, load: Load | None) -> NDArray[np.uint8] | None:
        data = self._host.get(digest)
        return load.get(digest) if data is None and load is not None else data

    def _inserted(self, digest: bytes) -> None:
        self._unsaved[digest] = None

    def _evicted(self, digest: bytes, block: int) -> None:
        self._unsaved.pop(digest, None)
        data = self._host.get(digest)
        if data is None:
            if not self._host.num_blocks and not self._disk_wants(digest):
                return
            data = self._read(block)
            self._host.put(digest, data)
            self._stats.offloaded += 1
        else:
            self._host.touch([digest])
        self._to_disk(digest, data)

    def _to_disk(self, digest: bytes, data: NDArray[np.uint8]) -> None:
        if self._writer is not None and self._disk_wants(digest):
            self._writer.offer(digest, data)

    def _disk_wants(self, digest: bytes) -> bool:
        if self._disk is None or self._writer is None:
            return False
        return digest not in self._disk and digest not in self._writer

    def _read(self, block: int) -> NDArray[np.uint8]:
        (data,) = self._executable.read_blocks([block])
        return np.asarray(data)
