"""The cache of packed weights: what is mapped is what was packed, and what is not good is not used."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest
from support.tiny_models import make_model, write_gguf

from octavo import _native
from octavo.config import EngineConfig
from octavo.engine import build
from octavo.formats.fingerprint import fingerprint
from octavo.formats.mapped import drop_pages, map_file
from octavo.formats.tensor import Encoding, Tensor
from octavo.runtime import native, packed_cache, packed_weights
from octavo.runtime.packed_cache import PackedCache
from octavo.runtime.packed_file import PackedFile

SHAPES = {"a": (40, 64), "b": (16, 64), "c": (4096, 576), "d": (33, 96)}
KEY = "key"


@pytest.fixture(autouse=True)
def no_model_is_too_small(monkeypatch):
    monkeypatch.setattr(packed_cache, "SMALLEST", 0)


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    rng = np.random.default_rng(3)

    def make(encoding: Encoding, shape: tuple[int, int]) -> Tensor:
        size = shape[0] * shape[1] // encoding.group_size * encoding.group_bytes
        return Tensor(shape, encoding, rng.integers(0, 255, size, dtype=np.uint8))

    encodings = [Encoding.Q4_0, Encoding.Q8_0, Encoding.F32, Encoding.Q4_1]
    return {
        name: make(encoding, shape) for encoding, (name, shape) in zip(encodings, SHAPES.items(), strict=True)
    }


class Recorder:
    """In place of a native program: keeps what it is given, and counts what it has to pack."""

    def __init__(self) -> None:
        self.program = _native.Program(2, "portable")
        self.threads = self.program.threads
        self.packed: dict[str, tuple[str, int, int, bytes]] = {}
        self.orders: dict[str, list[int]] = {}
        self.panels = 0

    def pack(self, encoding, rows, cols, raw, first, out):
        self.program.pack(encoding, rows, cols, raw, first, out)
        self.panels += 1

    def add_packed(self, name, encoding, rows, cols, data, order):
        self.packed[name] = encoding, rows, cols, data.tobytes()
        self.orders[name] = order.tolist()


def add(weights, cache) -> Recorder:
    recorder = Recorder()
    packed_weights.add_packed_weights(recorder, list(weights), weights, cache)
    return recorder


def make_cache(directory: Path, key: str = KEY, num_bytes: int = 1000, max_bytes: int = 1 << 30):
    return PackedCache(directory, key, num_bytes, max_bytes)


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def wait_for(path: Path) -> None:
    wait_until(path.exists)


def test_the_file_holds_what_memory_does(weights, tmp_path):
    plain = add(weights, None)
    first = add(weights, make_cache(tmp_path))
    wait_for(tmp_path / "key.packed")
    second = add(weights, make_cache(tmp_path))
    assert plain.panels
    assert first.panels
    assert second.panels == 0
    assert plain.packed == first.packed == second.packed
    for name, (encoding, rows, cols, data) in plain.packed.items():
        assert (encoding, rows, cols) == (weights[name].encoding.value, *weights[name].shape)
        assert len(data) == -(-rows // 16) * _native.panel_bytes(encoding, cols)


def test_orders_are_kept(weights, tmp_path):
    order = np.random.default_rng(1).permutation(64).astype(np.int32)
    ordered = weights | {"a": replace(weights["a"], order=order)}
    expected = {name: order.tolist() if name == "a" else [] for name in weights}
    assert add(ordered, make_cache(tmp_path)).orders == expected
    wait_for(tmp_path / "key.packed")
    second = add(ordered, make_cache(tmp_path))
    assert second.panels == 0
    assert second.orders == expected
    assert second.packed == add(weights, None).packed


def test_weights_that_the_file_lacks_are_packed_anew(weights, tmp_path):
    add({"a": weights["a"]}, make_cache(tmp_path))
    wait_for(tmp_path / "key.packed")
    assert add(weights, make_cache(tmp_path)).packed == add(weights, None).packed


@pytest.mark.parametrize("damage", ["cut", "index", "key", "magic", "length", "empty", "gap"])
def test_files_that_are_not_good(weights, tmp_path, damage, caplog):
    path = tmp_path / "key.packed"
    add(weights, make_cache(tmp_path))
    wait_for(path)
    data = bytearray(path.read_bytes())
    if damage == "cut":
        data = data[:-1000]
    elif damage == "index":
        data[data.rindex(b'"weights"') + 2] ^= 1
    elif damage == "key":
        make_other = make_cache(tmp_path, "other")
        add(weights, make_other)
        wait_for(tmp_path / "other.packed")
        data = bytearray((tmp_path / "other.packed").read_bytes())
    elif damage == "magic":
        data[-1] ^= 1
    elif damage == "length":
        data[-56:-48] = (1 << 63).to_bytes(8, "little")
    elif damage == "empty":
        data = bytearray()
    else:
        del data[64:128]
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"key\.packed"):
        PackedFile(path, KEY)
    assert make_cache(tmp_path).open() is None
    assert "Packed weights are not used" in caplog.text
    assert add(weights, make_cache(tmp_path)).packed == add(weights, None).packed


def test_an_index_that_points_elsewhere(tmp_path):
    path = tmp_path / "key.packed"
    for offset, size in ((0, 65), (-64, 128), (0, 1 << 60)):
        text = b'{"key":"key","weights":[["w","Q8_0",16,32,%d,%d]]}' % (offset, size)
        trailer = len(text).to_bytes(8, "little") + hashlib.sha256(text).digest() + b"octavo-packed-1\n"
        path.write_bytes(bytes(64) + text + trailer)
        with pytest.raises(ValueError, match=r"key\.packed"):
            PackedFile(path, KEY)


def test_room_is_made_by_removing_what_was_used_longest_ago(weights, tmp_path):
    for age, name in enumerate(["new", "old", "oldest"]):
        path = tmp_path / f"{name}.packed"
        path.write_bytes(bytes(1000))
        os.utime(path, (1e9 - age, 1e9 - age))
    (tmp_path / "unrelated").write_bytes(bytes(5000))
    add(weights, make_cache(tmp_path, num_bytes=1000, max_bytes=3000))
    wait_for(tmp_path / "key.packed")
    assert {path.name for path in tmp_path.iterdir()} >= {"new.packed", "old.packed", "unrelated"}
    assert not (tmp_path / "oldest.packed").exists()


def test_use_keeps_a_file_young(weights, tmp_path):
    add(weights, make_cache(tmp_path))
    wait_for(tmp_path / "key.packed")
    os.utime(tmp_path / "key.packed", (1e9, 1e9))
    assert make_cache(tmp_path).open() is not None
    assert (tmp_path / "key.packed").stat().st_mtime > 1.1e9


@pytest.mark.parametrize("num_bytes", [2001, 1 << 60])
def test_what_does_not_fit_is_not_kept(weights, tmp_path, num_bytes):
    cache = make_cache(tmp_path, num_bytes=num_bytes, max_bytes=2000 if num_bytes == 2001 else 1 << 62)
    assert add(weights, cache).packed == add(weights, None).packed
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_cannot_be_written(weights, tmp_path):
    (tmp_path / "file").write_text("")
    assert add(weights, make_cache(tmp_path / "file")).packed == add(weights, None).packed


def test_a_writer_that_fails_leaves_nothing(weights, tmp_path, monkeypatch, caplog):
    def fail(*arguments):
        raise OSError("no space")

    monkeypatch.setattr(packed_cache, "write_packed_file", fail)
    assert add(weights, make_cache(tmp_path)).packed == add(weights, None).packed
    wait_until(lambda: list(tmp_path.iterdir()) == [])
    assert "Packed weights are not kept: no space" in caplog.text


def test_weights_that_cannot_be_packed_leave_nothing(weights, tmp_path):
    class Broken(dict):
        def __getitem__(self, name):
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        add(Broken(weights), make_cache(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_files_of_writers_that_died(weights, tmp_path):
    """Ours is written over, another's removed, one that is being written left alone."""
    (tmp_path / "key.part").write_bytes(bytes(5000))
    (tmp_path / "dead.part").write_bytes(bytes(5000))
    with (tmp_path / "alive.part").open("wb") as alive:
        fcntl.flock(alive, fcntl.LOCK_EX)
        assert add(weights, make_cache(tmp_path)).packed == add(weights, None).packed
        wait_for(tmp_path / "key.packed")
        assert {path.name for path in tmp_path.iterdir()} == {"alive.part", "key.packed"}


def test_starts_at_once_pack_once(weights, tmp_path):
    recorders: list[Recorder] = []
    threads = [
        threading.Thread(target=lambda: recorders.append(add(weights, make_cache(tmp_path))))
        for _ in range(4)
    ]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert sum(each.panels > 0 for each in recorders) == 1
    assert all(each.packed == recorders[0].packed for each in recorders)
    wait_until(lambda: [path.name for path in tmp_path.iterdir()] == ["key.packed"])


def test_an_engine_starts_from_the_file(tmp_path, monkeypatch):
    """The second start packs nothing; another file, or other settings, have weights of their own."""
    monkeypatch.setenv("OCTAVO_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "model.gguf"
    write_gguf(make_model("llama-biases"), path, gguf.GGMLQuantizationType.Q4_0)
    written = []
    keep = PackedCache.keep

    def count(*arguments):
        written.append(arguments)
        keep(*arguments)

    monkeypatch.setattr(PackedCache, "keep", count)

    def start(**settings) -> int:
        written.clear()
        config = EngineConfig(model=str(path), kv_cache_memory_bytes=1 << 20, **settings)
        assert native.NativeBackend().isa == build.build_engine(config).ready().isa
        return len(written)

    def files() -> int:
        return len(list((tmp_path / "cache" / "packed").glob("*.packed")))

    def wait_for_files(count: int) -> None:
        wait_until(lambda: files() >= count)

    assert start() == 1
    wait_for_files(1)
    assert start() == 0
    assert start(dtype="float32") == 1
    wait_for_files(2)
    shutil.copy(path, tmp_path / "copy.gguf")
    (tmp_path / "copy.gguf").replace(path)
    assert start() == 1
    wait_for_files(3)
    assert start(packed_cache_gib=0) == 0
    assert files() == 3


def test_fingerprints(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(bytes(1 << 20))
    os.utime(path, ns=(10**18, 10**18))
    mark = fingerprint([path])
    assert fingerprint([path]) == mark != fingerprint([path, path])
    os.utime(path, ns=(10**18, 10**18 + 1))
    assert fingerprint([path]) != mark
    for change in (b"x" + bytes((1 << 20) - 1), bytes((1 << 20) + 1), bytes((1 << 20) - 1) + b"x"):
        path.write_bytes(change)
        os.utime(path, ns=(10**18, 10**18))
        assert fingerprint([path]) != mark


def test_dropped_pages_can_be_read_again(tmp_path):
    path = tmp_path / "file"
    data = np.random.default_rng(0).integers(0, 255, 1 << 20, dtype=np.uint8)
    path.write_bytes(data.tobytes())
    array = np.frombuffer(map_file(path), np.uint8)
    for view in (array, array[4096:8192], array[5000:9000], array[100:200]):
        drop_pages(view)
        assert np.array_equal(array, data)
    own = data.copy()
    drop_pages(own)
    assert np.array_equal(own, data)
