"""Whether a model fits, and how many sequences beside it."""

from __future__ import annotations

import msgspec

from octavo.engine.kv.kv_groups import KVGroup, longest_sequence, most_blocks
from octavo.plan.devices import Device
from octavo.plan.shape import ModelShape

DEVICE_RESERVE = 1e9
"""Bytes of each device that its driver, its libraries and captured graphs take."""


class MemoryPlan(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes, and what they hold.

    Layers with a window keep no more than they see: a sequence has blocks in each of `kv_groups`, and most
    while its prompt is computed, `max_num_batched_tokens` at a time.
    """

    total_bytes: float
    weight_bytes: float
    reserved_bytes: float
    kv_cache_bytes: float
    kv_bytes_per_token: float
    """Of a token that every layer sees."""
    kv_block_bytes: float
    kv_groups: tuple[KVGroup, ...]
    max_model_len: int
    max_num_batched_tokens: int
    tokens_per_request: int

    @property
    def num_blocks(self) -> int:
        """KV blocks that there is room for."""
        return max(0, int(self.kv_cache_bytes / self.kv_block_bytes))

    @property
    def bytes_per_sequence(self) -> float:
        """KV cache of one sequence of `max_model_len` that decodes."""
        return self.kv_block_bytes * most_blocks(self.kv_groups, self.max_model_len, 1)

    @property
    def fits(self) -> bool:
        """Whether one sequence of `max_model_len` does."""
        return self.longest >= self.max_model_len

    @property
    def longest(self) -> int:
        """The longest sequence that fits, of `max_model_len` tokens at most."""
        return longest_sequence(
            self.kv_groups, self.num_blocks, self.max_num_batched_tokens, self.max_model_len
        )

    def sequences_of(self, num_tokens: int) -> float:
        """How many sequences of that length, which decode, there is room for."""
        return self.num_blocks / most_blocks(self.kv_groups, num_tokens, 1)


def device_memory(
    shape: ModelShape,
    device: Device,
    count: int,
    *,
    utilization: float,
    bytes_per_weight: float,
    kv_bytes_per_value: float,
    max_model_len: int,
    tokens_per_request: int,
    max_num_batched_tokens: int,
    max_num_seqs: int,
) -> MemoryPlan:
    """The plan for `count` devices that share the model."""
    activations = max_num_batched_tokens * 2 * (6 * shape.spec.hidden_size + 2 * shape.widest_mlp)
    logits = 4 * max_num_seqs * shape.spec.vocab_size
    weight_bytes = shape.weight_bytes(bytes_per_weight)
    reserved = count * DEVICE_RESERVE + activations + logits
    usable = utilization * count * device.memory
    groups = shape.kv_groups(max_model_len)
    return MemoryPlan(
        total_bytes=count * device.memory,
        weight_bytes=weight_bytes,
        reserved_bytes=reserved,
        kv_cache_bytes=max(0.0, usable - weight_bytes - reserved),
        kv_bytes_per_token=shape.kv_cache_bytes(1, 1, kv_bytes_per_value),
        kv_block_bytes=shape.kv_block_bytes(groups, kv_bytes_per_value),
        kv_groups=groups,
        max_model_len=max_model_len,
        max_num_batched_tokens=max_num_batched_tokens,
        tokens_per_request=tokens_per_request,
    )
