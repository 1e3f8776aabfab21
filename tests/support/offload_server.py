"""Engines with a KV offload, one after the other over the same directory."""

from __future__ import annotations

from pathlib import Path

from support.hash_executable import HashExecutable
from support.kv_layers import window_of

from octavo.engine.build import step_limits
from octavo.engine.engine import Engine, EngineSettings
from octavo.engine.kv.offload.block_file import file_bytes
from octavo.engine.kv.offload.disk_tier import DiskTier
from octavo.engine.kv.offload.host_tier import HostTier
from octavo.engine.kv.offload.kv_offload import KVOffload
from octavo.engine.messages import AddRequest, OffloadStats
from octavo.engine.scheduling.scheduler import SchedulerSettings
from octavo.request_options import RequestOptions
from octavo.runtime.kv_cache import BLOCK_SIZE
from octavo.sampling_params import SamplingParams

VOCAB = 19
MAX_MODEL_LEN = 96
SIZES = {"vocab_size": VOCAB, "max_model_len": MAX_MODEL_LEN}
BLOCK_BYTES = BLOCK_SIZE * 2 * 4
DISK_BLOCKS = 40


def disk_tier(folder: Path, blocks: int = DISK_BLOCKS) -> DiskTier:
    return DiskTier(folder, b"k" * 32, BLOCK_BYTES, blocks * file_bytes(BLOCK_BYTES))


def hash_executable(engine_settings: EngineSettings) -> HashExecutable:
    scheduler = engine_settings.scheduler
    windows = tuple(map(window_of, scheduler.kv_groups))
    return HashExecutable(VOCAB, step_limits(scheduler, engine_settings.max_model_len, VOCAB), windows)


def make_engine(engine_settings: EngineSettings, host_blocks: int, folder: Path | None) -> Engine:
    executable = hash_executable(engine_settings)
    disk = None if folder is None else disk_tier(folder)
    return Engine(
        executable, engine_settings, KVOffload(executable, BLOCK_BYTES, HostTier(host_blocks), disk)
    )


def plain(engine_settings: EngineSettings) -> Engine:
    return Engine(hash_executable(engine_settings), engine_settings)


SETTINGS = EngineSettings(SchedulerSettings(4, 64, max_outputs=8), MAX_MODEL_LEN, VOCAB, num_blocks=6)


def prompt(number: int, length: int = 64) -> list[int]:
    return [(number + 3 * index * index) % VOCAB for index in range(length)]


class Server:
    """Engines one after the other over the same directory."""

    def __init__(
        self, folder: Path | None, host_blocks: int = 0, settings: EngineSettings = SETTINGS
    ) -> None:
        self.settings, self.host_blocks, self.folder = settings, host_blocks, folder
        self.number = 0
        self.engine = make_engine(settings, host_blocks, folder)

    def ask(self, prompt: list[int], *, skip: bool = False, **options) -> tuple[list[int], int]:
        """The tokens and how many of the prompt were not computed."""
        self.number += 1
        params = SamplingParams(
            temperature=0.0,
            max_tokens=3,
            ignore_eos=True,
            skip_reading_prefix_cache=skip,
        )
        request = AddRequest(str(self.number), prompt, params, [], 0.0, options=RequestOptions(**options))
        self.engine.add(request)
        tokens, cached = [], 0
        while self.engine.has_work:
            for output in self.engine.step().outputs:
                tokens += output.token_ids
                cached = output.num_cached_tokens
        return tokens, cached

    @property
    def stats(self) -> OffloadStats:
        stats = self.engine.step().stats.offload
        assert stats is not None
        return stats

    def wait_for_reads(self, count: int) -> None:
        """Until `count` blocks have been read from disk that no step has collected."""
        assert self.engine._offload is not None
        reader = self.engine._offload._reader
        assert reader is not None
        with reader._changed:
            assert reader._changed.wait_for(lambda: len(reader._finished) == count, 60.0)

    def restart(self, *, save: bool = True, gracefully: bool = True) -> None:
        if save:
            while self.engine.save_some() is not None:
                pass
            offload = self.engine._offload
            assert offload is not None
            assert offload._writer is not None
            assert offload._writer.flush(60.0)
        if gracefully:
            self.engine.close()
        self.engine = make_engine(self.settings, self.host_blocks, self.folder)
