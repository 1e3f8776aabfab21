"""How many KV blocks an engine gets."""

from __future__ import annotations

import math

from octavo.config import DEFAULT_KV_CACHE_BYTES, EngineConfig
from octavo.engine.kv.kv_groups import KVGroup, longest_sequence, most_blocks
from octavo.machine.memory import Memory
from octavo.runtime.kv_cache import BLOCK_SIZE

_DEFAULT_SHARE = 0.9
"""Of what memory is available, taken when no flag says how much."""


def num_kv_blocks(
    config: EngineConfig,
    *,
    block_bytes: int,
    reserved_bytes: int,
    max_model_len: int,
    memory: Memory,
    groups: tuple[KVGroup, ...] = (KVGroup(),),
    chunk: int = 1,
) -> int:
    """The number of KV blocks: what the flags ask for, or a cautious share of memory.

    The first that is set of `num_gpu_blocks_override`, `kv_cache_memory_bytes` and
    `gpu_memory_utilization` (of `memory.total`, `reserved_bytes` for weights and activations included);
    otherwise 4 GiB, or what 90% of `memory.available` leaves beside those if that is less. A share of
    memory never gives more blocks than `max_num_seqs` sequences of `max_model_len` could fill. `memory`
    is as it was before the weights were loaded. A sequence has blocks in each of `groups`, and `chunk` tokens
    of it are computed in a step at most.

    Raises ValueError, naming the flag and the value that would do, if one sequence of `max_model_len`
    does not fit.
    """
    needed = most_blocks(groups, max_model_len, chunk)
    most = config.max_num_seqs * needed
    if config.num_gpu_blocks_override is not None:
        blocks = config.num_gpu_blocks_override
        remedy = f"num_gpu_blocks_override (--num-gpu-blocks-override) must be at least {needed}"
    elif config.kv_cache_memory_bytes is not None:
        blocks = config.kv_cache_memory_bytes // block_bytes
        remedy = f"kv_cache_memory_bytes (--kv-cache-memory-bytes) must be at least {needed * block_bytes}"
    elif config.gpu_memory_utilization is not None:
        budget = int(config.gpu_memory_utilization * memory.total) - reserved_bytes
        blocks = min(budget // block_bytes, most)
        remedy = _utilization_remedy(reserved_bytes + needed * block_bytes, memory.total)
    else:
        budget = int(_DEFAULT_SHARE * memory.available) - reserved_bytes
        blocks = min(DEFAULT_KV_CACHE_BYTES, budget) // block_bytes
        blocks = min(blocks, most)
        remedy = f"set kv_cache_memory_bytes (--kv-cache-memory-bytes) to at least {needed * block_bytes}"
    if blocks < needed:
        longest = longest_sequence(groups, blocks, chunk, max_model_len)
        shorter = f", or max_model_len (--max-model-len) at most {longest}" if longest else ""
        raise ValueError(
            f"{remedy}{shorter}: {max(blocks, 0)} KV blocks of {BLOCK_SIZE} tokens do not hold one sequence "
            f"of max_model_len {max_model_len}"
        )
    return blocks


def _utilization_remedy(needed_bytes: int, total: int) -> str:
    share = math.ceil(100 * needed_bytes / total) / 100
    if share > 1.0:
        return f"weights, activations and one sequence need {needed_bytes} bytes and memory has {total}"
    return f"gpu_memory_utilization (--gpu-memory-utilization) must be at least {share:.2f}"
