"""What is on disk is found again whole or not at all, whatever happened to it."""

from __future__ import annotations

import os
import stat
import time
from pathlib import Path

import numpy as np
import pytest

from octavo.engine.kv.offload.block_file import BadBlockFileError, file_bytes, read_block_file
from octavo.engine.kv.offload.disk_tier import DiskTier

KEY, OTHER_KEY = b"k" * 32, b"o" * 32
BYTES = 1000


def digest(number: int) -> bytes:
    return number.to_bytes(32, "big")


def block(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, BYTES, dtype=np.uint8)


def tier(folder: Path, blocks: int = 100, key: bytes = KEY) -> DiskTier:
    return DiskTier(folder, key, BYTES, blocks * file_bytes(BYTES))


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_blocks_are_found_by_a_later_process_bit_for_bit(tmp_path: Path):
    first = tier(tmp_path)
    for number in range(5):
        first.write(digest(number), block(number))
    again = tier(tmp_path)
    assert len(again) == 5
    assert again.num_bytes == sum(path.stat().st_size for path in files(tmp_path))
    for number in range(5):
        assert (again.read(digest(number)) == block(number)).all()
    assert again.read(digest(9)) is None
    assert digest(9) not in again


def test_another_model_finds_nothing(tmp_path: Path):
    tier(tmp_path).write(digest(1), block(1))
    other = tier(tmp_path, key=OTHER_KEY)
    assert digest(1) not in other
    assert other.read(digest(1)) is None
    assert len(other) == 0
    # ... not even in a file that was moved to where it looks.
    (path,) = files(tmp_path)
    moved = tmp_path / "octavo-kv" / OTHER_KEY.hex() / path.name
    moved.write_bytes(path.read_bytes())
    assert tier(tmp_path, key=OTHER_KEY).read(digest(1)) is None
    assert not moved.exists()


def cut(data: bytes) -> bytes:
    return data[:-1]


def flip(position: int):
    def change(data: bytes) -> bytes:
        changed = bytearray(data)
        changed[position] ^= 1
        return bytes(changed)

    return change


@pytest.mark.parametrize(
    "damage",
    [cut, flip(0), flip(9), flip(20), flip(60), flip(100), flip(-1), lambda data: b"", lambda data: data * 2],
)
@pytest.mark.parametrize("when", ["before a start", "while it runs"])
def test_a_damaged_file_is_ignored_and_removed(tmp_path: Path, damage, when: str):
    disk = tier(tmp_path)
    disk.write(digest(1), block(1))
    (path,) = files(tmp_path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(BadBlockFileError, match=r"\.kv"):
        read_block_file(path, KEY, digest(1), BYTES)
    if when == "before a start":
        disk = tier(tmp_path)
    assert disk.read(digest(1)) is None
    assert not path.exists()
    assert digest(1) not in disk
    assert disk.num_bytes == 0
    disk.write(digest(1), block(1))
    assert (disk.read(digest(1)) == block(1)).all()


def test_a_block_under_another_ones_name_is_not_believed(tmp_path: Path):
    disk = tier(tmp_path)
    disk.write(digest(1), block(1))
    disk.write(digest(2), block(2))
    one, two = files(tmp_path)
    one.replace(two)
    assert disk.read(digest(2)) is None


def test_foreign_files_are_removed_from_its_own_folder_only(tmp_path: Path):
    tier(tmp_path)
    root = tmp_path / "octavo-kv"
    mine = root / KEY.hex()
    kept = [tmp_path / "letter.txt", root / "note", root / OTHER_KEY.hex() / "note", mine / "folder" / "x"]
    new_part = mine / f".{digest(1).hex()}.kv.1.tmp"
    old_part = mine / f".{digest(2).hex()}.kv.1.tmp"
    foreign = [mine / "core", mine / "AB.kv", mine / f"{digest(3).hex()}.kv", old_part]
    for path in [*kept, *foreign, new_part]:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x")
    os.utime(old_part, (1, 1))
    assert len(tier(tmp_path)) == 0
    assert all(path.exists() for path in [*kept, new_part])
    assert not any(path.exists() for path in foreign)


def test_a_link_is_not_followed(tmp_path: Path):
    disk = tier(tmp_path)
    disk.write(digest(1), block(1))
    (path,) = files(tmp_path)
    target = tmp_path / "elsewhere"
    path.rename(target)
    path.symlink_to(target)
    assert disk.read(digest(1)) is None
    assert len(tier(tmp_path)) == 0
    assert target.exists()


def test_the_bound_holds_and_the_least_recently_used_goes(tmp_path: Path):
    disk = tier(tmp_path, blocks=3)
    for number in range(3):
        disk.write(digest(number), block(number))
    disk.read(digest(0))
    disk.write(digest(3), block(3))
    assert [number for number in range(4) if digest(number) in disk] == [0, 2, 3]
    assert len(files(tmp_path)) == 3
    assert disk.num_bytes == 3 * file_bytes(BYTES)


def test_the_order_of_use_outlives_the_process_and_counts_across_models(tmp_path: Path):
    disk, other = tier(tmp_path), tier(tmp_path, key=OTHER_KEY)
    for number, each in [(0, disk), (1, other), (2, disk)]:
        each.write(digest(number), block(number))
        os.utime(files(tmp_path / "octavo-kv")[0], None)
    for age, path in enumerate(sorted(files(tmp_path), key=lambda path: path.name)):
        os.utime(path, (time.time() - 100 + age,) * 2)
    disk.read(digest(0))
    disk = tier(tmp_path, blocks=2)
    assert {path.name for path in files(tmp_path)} == {f"{digest(n).hex()}.kv" for n in (0, 2)}
    # The other model's last block went, and its folder with it.
    assert [path.name for path in (tmp_path / "octavo-kv").iterdir()] == [KEY.hex()]


def test_nothing_is_written_twice_and_nothing_that_can_not_fit(tmp_path: Path):
    disk = tier(tmp_path)
    disk.write(digest(1), block(1))
    before = files(tmp_path)[0].stat().st_mtime_ns
    disk.write(digest(1), block(2))
    assert files(tmp_path)[0].stat().st_mtime_ns == before
    none = DiskTier(tmp_path / "small", KEY, BYTES, BYTES)
    none.write(digest(1), block(1))
    assert len(none) == 0


def test_prompts_are_for_the_owner_only(tmp_path: Path):
    disk = tier(tmp_path)
    disk.write(digest(1), block(1))
    (path,) = files(tmp_path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_a_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    disk = tier(tmp_path)

    def full(self: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="No space"):
        disk.write(digest(1), block(1))
    assert files(tmp_path) == []
    assert digest(1) not in disk


def test_a_folder_that_was_emptied_is_made_again(tmp_path: Path):
    disk = tier(tmp_path)
    disk.write(digest(1), block(1))
    (path,) = files(tmp_path)
    path.unlink()
    path.parent.rmdir()
    assert disk.read(digest(1)) is None
    disk.write(digest(1), block(1))
    assert (disk.read(digest(1)) == block(1)).all()


def test_forgetting(tmp_path: Path):
    disk, other = tier(tmp_path), tier(tmp_path, key=OTHER_KEY)
    disk.write(digest(1), block(1))
    other.write(digest(2), block(2))
    (garbage,) = disk.forget()
    assert digest(1) not in disk
    assert garbage.name == f"{digest(1).hex()}.kv"
    assert digest(2) in other
