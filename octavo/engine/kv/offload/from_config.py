"""The tiers that the flags ask for."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path

from octavo.config import EngineConfig
from octavo.engine.kv.offload.block_file import file_bytes
from octavo.engine.kv.offload.disk_tier import DiskTier
from octavo.engine.kv.offload.host_tier import HostTier
from octavo.engine.kv.offload.kv_offload import KVOffload
from octavo.runtime.backend import Executable

_log = logging.getLogger(__name__)

_GIB = 1 << 30


def make_offload(
    config: EngineConfig,
    executable: Executable,
    *,
    block_bytes: int,
    spare_bytes: int,
    key: Callable[[], bytes],
) -> KVOffload | None:
    """None where no flag asks for a tier.

    `spare_bytes` of memory are left beside weights and KV cache; `key` is what `content_key` gives, asked
    for a disk only. Raises ValueError, naming the flag, for a size or a directory that can not be.
    """
    host_bytes = int(config.kv_offload_gb * _GIB)
    if host_bytes > spare_bytes:
        raise ValueError(
            f"kv_offload_gb (--kv-offload-gb) is at most {max(spare_bytes, 0) / _GIB:.2f} here: memory has "
            f"no more beside weights and KV cache; got {config.kv_offload_gb:g}"
        )
    if 0 < host_bytes < block_bytes:
        raise ValueError(
            f"kv_offload_gb (--kv-offload-gb) must be at least {block_bytes / _GIB:.6f}, a KV block; "
            f"got {config.kv_offload_gb:g}"
        )
    host = HostTier(host_bytes // block_bytes)
    if host.num_blocks:
        _log.info("KV offload: %s blocks in host memory, %.2f GiB", f"{host.num_blocks:,}", host_bytes / _GIB)
    disk = _open_disk(config, block_bytes, key) if config.kv_offload_dir is not None else None
    return KVOffload(executable, block_bytes, host, disk) if host.num_blocks or disk is not None else None


def _open_disk(config: EngineConfig, block_bytes: int, key: Callable[[], bytes]) -> DiskTier:
    assert config.kv_offload_dir is not None
    max_bytes = int(config.kv_offload_disk_gb * _GIB)
    if max_bytes < file_bytes(block_bytes):
        raise ValueError(
            "kv_offload_disk_gb (--kv-offload-disk-gb) must be at least "
            f"{file_bytes(block_bytes) / _GIB:.6f}, a KV block; got {config.kv_offload_disk_gb:g}"
        )
    started = time.perf_counter()
    try:
        disk = DiskTier(Path(config.kv_offload_dir).expanduser(), key(), block_bytes, max_bytes)
    except OSError as error:
        raise ValueError(
            f"kv_offload_dir (--kv-offload-dir) must be a directory that can be written: {error}"
        ) from error
    _log.info(
        "KV offload: %s blocks of this model on disk, all files take %.2f of at most %.2f GiB (%.1f s)",
        f"{len(disk):,}",
        disk.num_bytes / _GIB,
        config.kv_offload_disk_gb,
        time.perf_counter() - started,
    )
    return disk
