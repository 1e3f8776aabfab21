"""Flags that can not be say which, and what would do."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.hash_executable import HashExecutable

from octavo.config import EngineConfig
from octavo.engine.kv.offload.from_config import make_offload
from octavo.engine.kv.offload.kv_offload import KVOffload
from octavo.runtime.backend import Limits

BLOCK_BYTES = 1 << 20


def offload(**flags) -> KVOffload | None:
    return make_offload(
        EngineConfig(**flags),
        HashExecutable(10, Limits(1, 1, 1, 1, 10)),
        block_bytes=BLOCK_BYTES,
        spare_bytes=3 << 30,
        key=lambda: b"k" * 32,
    )


def test_no_flag_no_tier():
    assert offload() is None


def test_a_tier_for_each_flag(tmp_path: Path):
    host = offload(kv_offload_gb=0.5)
    assert host is not None
    assert host._host.num_blocks == 512
    assert host._disk is None
    disk = offload(kv_offload_dir=str(tmp_path / "new" / "folder"))
    assert disk is not None
    assert disk._host.num_blocks == 0
    disk.close()


def test_more_memory_than_there_is():
    with pytest.raises(ValueError, match=r"kv_offload_gb \(--kv-offload-gb\) is at most 3\.00 here.*got 4"):
        offload(kv_offload_gb=4)


def test_less_than_a_block(tmp_path: Path):
    with pytest.raises(ValueError, match=r"--kv-offload-gb\) must be at least 0\.000977, a KV block"):
        offload(kv_offload_gb=1e-6)
    with pytest.raises(ValueError, match=r"--kv-offload-disk-gb\) must be at least 0\.00097\d, a KV block"):
        offload(kv_offload_dir=str(tmp_path), kv_offload_disk_gb=1e-6)


def test_a_directory_that_can_not_be(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"kv_offload_dir \(--kv-offload-dir\) must be a directory"):
        offload(kv_offload_dir=str(tmp_path / "file"))


@pytest.mark.parametrize("flags", [{"kv_offload_gb": 1}, {"kv_offload_dir": "d"}])
def test_without_a_prefix_cache_there_is_nothing_to_keep(flags):
    with pytest.raises(ValueError, match=r"need enable_prefix_caching \(--enable-prefix-caching\)"):
        EngineConfig(enable_prefix_caching=False, **flags)
