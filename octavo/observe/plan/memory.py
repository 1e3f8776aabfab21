"""Whether a model fits, and how many sequences beside it."""

from __future__ import annotations

import math

import msgspec

from octavo.observe.plan.devices import Device
from octavo.observe.plan.shape import ModelShape
from octavo.runtime.backend import BLOCK_SIZE

DEVICE_RESERVE = 1e9
"""Bytes of each device that its driver, its libraries and captured graphs take."""


class MemoryPlan(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes, and what they hold."""

    total_bytes: float
    weight_bytes: float
    reserved_bytes: float
    kv_cache_bytes: float
    kv_bytes_per_token: float
    max_model_len: int
    tokens_per_request: int

    @property
    def num_blocks(self) -> int:
        """KV blocks that there is room for."""
        return max(0, int(self.kv_cache_bytes / (self.kv_bytes_per_token * BLOCK_SIZE)))

    @property
    def bytes_per_sequence(self) -> float:
        """KV cache of one sequence of `max_model_len`."""
        return self.kv_bytes_per_token * self.max_model_len

    @property
    def fits(self) -> bool:
        """Whether one sequence of `max_model_len` does."""
        return self.num_blocks >= math.ceil(self.max_model_len / BLOCK_SIZE)

    def sequences_of(self, num_tokens: int) -> float:
        """How many sequences of that length there is room for."""
        return self.num_blocks * BLOCK_SIZE / num_tokens


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
    activations = max_num_batched_tokens * 2 * (6 * shape.hidden_size + 2 * shape.intermediate_size)
    logits = 4 * max_num_seqs * shape.vocab_size
    weight_bytes = shape.weight_bytes(bytes_per_weight)
    reserved = count * DEVICE_RESERVE + activations + logits
    usable = utilization * count * device.memory
    return MemoryPlan(
        total_bytes=count * device.memory,
        weight_bytes=weight_bytes,
        reserved_bytes=reserved,
        kv_cache_bytes=max(0.0, usable - weight_bytes - reserved),
        kv_bytes_per_token=shape.kv_cache_bytes(1, 1, kv_bytes_per_value),
        max_model_len=max_model_len,
        tokens_per_request=tokens_per_request,
    )
