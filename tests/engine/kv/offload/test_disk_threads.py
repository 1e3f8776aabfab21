"""The threads between the engine and the disk: what is dropped, what is shared, what is given back."""

from __future__ import annotations

import gc
import threading
from pathlib import Path

import numpy as np
import pytest

from octavo.engine.kv.offload.block_file import file_bytes
from octavo.engine.kv.offload.disk_reader import DiskReader, Load
from octavo.engine.kv.offload.disk_tier import DiskTier
from octavo.engine.kv.offload.disk_writer import DiskWriter

SECONDS = 60.0


def digest(number: int) -> bytes:
    return number.to_bytes(32, "big")


def block(number: int) -> np.ndarray:
    return np.full(100, number, np.uint8)


class SlowDisk(DiskTier):
    """Writes and reads only while the gate is open; remembers what it read."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, b"k" * 32, 100, 100 * file_bytes(100))
        self.gate = threading.Event()
        self.entered = threading.Event()
        self.reads: list[int] = []

    def write(self, digest: bytes, data: np.ndarray) -> None:
        self.entered.set()
        assert self.gate.wait(SECONDS)
        super().write(digest, data)

    def read(self, digest: bytes) -> np.ndarray | None:
        self.reads.append(int.from_bytes(digest, "big"))
        self.entered.set()
        assert self.gate.wait(SECONDS)
        return super().read(digest)


@pytest.fixture
def disk(tmp_path: Path) -> SlowDisk:
    return SlowDisk(tmp_path)


def test_a_full_queue_drops_and_never_waits(disk: SlowDisk):
    writer = DiskWriter(disk, most_blocks=2)
    writer.offer(digest(0), block(0))
    assert disk.entered.wait(SECONDS)
    for number in range(1, 6):
        writer.offer(digest(number), block(number))
    assert (writer.is_full, writer.num_dropped) == (True, 3)
    assert not writer.flush(0.01)
    disk.gate.set()
    assert writer.flush(SECONDS)
    writer.close()
    assert writer.num_written == len(disk) == 3
    assert [number for number in range(6) if digest(number) in disk] == [0, 1, 2]


def test_a_disk_that_is_full_costs_blocks_and_one_line(
    disk: SlowDisk, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    def full(digest: bytes, data: np.ndarray) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(disk, "write", full)
    writer = DiskWriter(disk, most_blocks=10)
    for number in range(3):
        writer.offer(digest(number), block(number))
    assert writer.flush(SECONDS)
    writer.close()
    assert (writer.num_written, writer.num_dropped) == (0, 3)
    assert caplog.text.count("No space left") == 1


def test_clearing_drops_what_waits_and_removes_files(disk: SlowDisk, tmp_path: Path):
    writer = DiskWriter(disk, most_blocks=10)
    garbage = tmp_path / "garbage"
    garbage.touch()
    writer.offer(digest(0), block(0))
    assert disk.entered.wait(SECONDS)
    writer.offer(digest(1), block(1))
    writer.clear([garbage])
    disk.gate.set()
    assert writer.flush(SECONDS)
    writer.close()
    assert not garbage.exists()
    assert digest(1) not in disk


def finish(reader: DiskReader, load: Load) -> None:
    while not load.done:
        reader.wait(SECONDS)
        list(reader.collect())


def test_a_block_that_two_want_is_read_once_and_the_last_is_read_first(disk: SlowDisk):
    disk.gate.set()
    for number in range(4):
        disk.write(digest(number), block(number))
    disk.gate.clear()
    disk.entered.clear()
    reader = DiskReader(disk)
    first = reader.load([digest(0), digest(1), digest(2)])
    assert disk.entered.wait(SECONDS)
    second = reader.load([digest(1), digest(2), digest(3), digest(9)])
    assert not first.done
    disk.gate.set()
    finish(reader, first)
    finish(reader, second)
    reader.close()
    assert disk.reads == [2, 1, 0, 9, 3]
    assert [(second.get(digest(number)) == block(number)).all() for number in (1, 2, 3)] == [True] * 3
    assert second.get(digest(9)) is None
    assert first.get(digest(3)) is None


def test_what_nobody_wants_any_more_is_neither_read_nor_kept(disk: SlowDisk):
    disk.gate.set()
    for number in range(4):
        disk.write(digest(number), block(number))
    disk.gate.clear()
    disk.entered.clear()
    reader = DiskReader(disk)
    kept = reader.load([digest(0)])
    assert disk.entered.wait(SECONDS)
    gone = reader.load([digest(1), digest(2)])
    assert reader.num_held == 3
    del gone
    gc.collect()
    assert reader.num_held == 1
    disk.gate.set()
    finish(reader, kept)
    last = reader.load([digest(3)])
    finish(reader, last)
    reader.close()
    assert disk.reads == [0, 3]
    del kept, last
    assert reader.num_held == 0


def test_nothing_changes_before_it_is_collected(disk: SlowDisk):
    disk.gate.set()
    disk.write(digest(0), block(0))
    reader = DiskReader(disk)
    load = reader.load([digest(0)])
    reader.wait(SECONDS)
    assert not load.done
    assert load.get(digest(0)) is None
    assert len(list(reader.collect())) == 1
    assert load.done
    reader.close()


def test_a_load_of_nothing_is_done():
    assert Load().done
