"""How long a step takes, before anything is run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from octavo.plan.devices import Device
from octavo.plan.shape import ModelShape
from octavo.plan.step_work import StepWork

REACHED_BANDWIDTH = 0.8
REACHED_FLOPS = 0.55
"""Parts of a data sheet's rates that good kernels reach, reading weights and multiplying large matrices."""
STEP_OVERHEAD = 1.5e-3
"""Seconds that a step takes besides: scheduling, sampling, launches."""
ALL_REDUCE_LATENCY = 15e-6


class StepCost(Protocol):
    """A model of how long steps take, and of how evenly their tokens reach the clients."""

    def seconds(self, work: StepWork) -> float:
        """How long a step with that work takes."""
        ...

    def delays(self, num_decodes: int) -> Sequence[float]:
        """Samples of what a client's gap between tokens differs by from the steps between them.

        For steps in which `num_decodes` sequences decode, in seconds. Empty where tokens come evenly.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Roofline:
    """The longer of reading weights and keys, and multiplying (Williams, Waterman and Patterson, 2009).

    `count` devices share the model by tensor parallelism, which takes two all-reduces a layer.
    """

    shape: ModelShape
    device: Device
    count: int
    weight_bytes: float
    kv_bytes_per_value: float
    eight_bit: bool = False

    def seconds(self, work: StepWork) -> float:
        """The estimate."""
        shape, device = self.shape, self.device
        weights = self.weight_bytes * shape.share_read(work.num_tokens)
        read = weights + work.num_keys * shape.kv_cache_bytes(1, 1, self.kv_bytes_per_value)
        reading = read / (self.count * device.bandwidth * REACHED_BANDWIDTH)
        linear = 2 * shape.linear_parameters * work.num_tokens
        attention = 2 * shape.attention_macs * work.num_pairs
        rate = device.flops_8bit if self.eight_bit else device.flops_16bit
        computing = (linear / rate + attention / device.flops_16bit) / (self.count * REACHED_FLOPS)
        return max(reading, computing) + self._communication(work.num_tokens) + STEP_OVERHEAD

    def delays(self, num_decodes: int) -> Sequence[float]:
        """None: how a server's host delivers is not on the data sheet."""
        return ()

    def _communication(self, num_tokens: int) -> float:
        if self.count == 1:
            return 0.0
        values = num_tokens * self.shape.spec.hidden_size
        sent = 2 * (self.count - 1) / self.count * values * 2  # a ring's, of 2 bytes a value
        return 2 * self.shape.spec.num_layers * (ALL_REDUCE_LATENCY + sent / (self.device.link_bandwidth / 2))
