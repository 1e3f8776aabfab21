"""Which flag decides the number of KV blocks, and what is said when they are too few."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from octavo.config import DEFAULT_KV_CACHE_BYTES, EngineConfig
from octavo.engine.kv.memory import num_kv_blocks
from octavo.machine.memory import Memory

GIB = 1 << 30
BLOCK = 1 << 20
ROOMY = Memory(total=64 * GIB, available=60 * GIB)


def blocks(
    config: EngineConfig, memory: Memory = ROOMY, reserved: int = GIB, max_model_len: int = 2048
) -> int:
    return num_kv_blocks(
        config, block_bytes=BLOCK, reserved_bytes=reserved, max_model_len=max_model_len, memory=memory
    )


def test_the_default_is_4_gib_or_what_is_left_of_90_percent():
    assert blocks(EngineConfig()) == DEFAULT_KV_CACHE_BYTES // BLOCK == 4096
    assert blocks(EngineConfig(), Memory(8 * GIB, 4 * GIB)) == int(0.9 * 4 * 1024) - 1024


def test_explicit_flags_win_in_order():
    config = EngineConfig(gpu_memory_utilization=0.5)
    assert blocks(config) == 31 * 1024
    config.kv_cache_memory_bytes = 5 * GIB + BLOCK // 2
    assert blocks(config) == 5 * 1024
    config.num_gpu_blocks_override = 200
    assert blocks(config) == 200


def test_a_share_of_memory_is_no_more_than_all_sequences_could_fill():
    few = {"max_num_seqs": 2}
    assert blocks(EngineConfig(**few)) == 2 * 128
    assert blocks(EngineConfig(**few, gpu_memory_utilization=0.5)) == 2 * 128
    # What was asked for by size keeps prefixes of requests that are gone.
    assert blocks(EngineConfig(**few, kv_cache_memory_bytes=GIB)) == 1024
    assert blocks(EngineConfig(**few, num_gpu_blocks_override=1000)) == 1000


@pytest.mark.parametrize(
    ("flags", "memory", "reserved", "message"),
    [
        ({"num_gpu_blocks_override": 127}, ROOMY, 0, r"--num-gpu-blocks-override\) must be at least 128"),
        (
            {"kv_cache_memory_bytes": 100 * BLOCK},
            ROOMY,
            0,
            r"--kv-cache-memory-bytes\) must be at least 134217728, or max_model_len .* at most 1600:",
        ),
        (
            {"gpu_memory_utilization": 0.01},
            Memory(4 * GIB, GIB),
            GIB,
            r"utilization\) must be at least 0.29:",
        ),
        (
            {"gpu_memory_utilization": 0.9},
            Memory(GIB, GIB),
            GIB,
            r"one sequence need 1207959552 bytes and memory has 1073741824: 0 KV blocks",
        ),
        ({}, Memory(GIB, 100 * BLOCK), 0, r"kv-cache-memory-bytes\) to at least 134217728, .* at most 1440:"),
    ],
)
def test_too_few_blocks_name_the_flag_and_the_value(
    flags: dict[str, float], memory: Memory, reserved: int, message: str
):
    with pytest.raises(ValueError, match=message):
        blocks(EngineConfig(**flags), memory, reserved)


@given(
    flag=st.sampled_from(["num_gpu_blocks_override", "kv_cache_memory_bytes", "gpu_memory_utilization"]),
    max_model_len=st.integers(33, 100_000),
    reserved=st.integers(0, 4 * GIB),
)
def test_the_values_in_the_message_work(flag: str, max_model_len: int, reserved: int):
    least = {"num_gpu_blocks_override": 2, "kv_cache_memory_bytes": 1, "gpu_memory_utilization": 0.01}
    with pytest.raises(ValueError, match="at least") as caught:
        blocks(EngineConfig(**{flag: least[flag]}), ROOMY, reserved + GIB, max_model_len)
    value = float(re.search(r"at least ([0-9.]+)", str(caught.value))[1])
    value = value if flag == "gpu_memory_utilization" else int(value)
    config = EngineConfig(**{flag: value})
    assert blocks(config, ROOMY, reserved + GIB, max_model_len) >= -(-max_model_len // 16)
    if shorter := re.search(r"at most (\d+):", str(caught.value)):
        assert blocks(EngineConfig(**{flag: least[flag]}), ROOMY, reserved + GIB, int(shorter[1])) > 0
