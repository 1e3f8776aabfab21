"""The speed that a machine allows a model: the roofline (Williams, Waterman and Patterson, 2009).

A step has to read the weights and the KV cache, and to do its multiply-adds; the machine's rates for both
are measured. It cannot take less than the longer of the two times.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import msgspec

from octavo.bench.workload import Workload
from octavo.config import EngineConfig
from octavo.formats.tensor import Tensor
from octavo.model.decoder import trace
from octavo.model.load import load_model
from octavo.runtime.kv_cache import BLOCK_SIZE, KVCacheSpec
from octavo.runtime.ops import OPS
from octavo.runtime.program import Program, Rows

READ_BYTES = 256 << 20
"""Size of the buffer whose reading is timed: more than the caches hold."""


class Roofline(msgspec.Struct, frozen=True, kw_only=True):
    """Rates that the machine reached in loops that do nothing else."""

    isa: str
    threads: int
    read_bandwidth: float  # bytes/s
    integer_rate: float  # int8 multiply-adds/s
    float_rate: float  # float32 multiply-adds/s

    def fastest(self, other: Roofline) -> Roofline:
        """The higher of each rate: another measurement of the same ceiling."""
        return Roofline(
            isa=self.isa,
            threads=self.threads,
            read_bandwidth=max(self.read_bandwidth, other.read_bandwidth),
            integer_rate=max(self.integer_rate, other.integer_rate),
            float_rate=max(self.float_rate, other.float_rate),
        )

    def line(self) -> str:
        """The rates, for a terminal."""
        return (
            f"{self.isa}, {self.threads} threads: reads {self.read_bandwidth / 1e9:.1f} GB/s, multiply-adds "
            f"int8 {self.integer_rate / 1e9:,.0f} G/s, float32 {self.float_rate / 1e9:,.0f} G/s"
        )


def measure_roofline(isa: str, threads: int) -> Roofline:
    """Time the three loops, in about two seconds. `isa` must be one of `available_isas()`."""
    from octavo import _native

    return Roofline(
        isa=isa,
        threads=threads,
        read_bandwidth=_native.read_bandwidth(isa, threads, READ_BYTES),
        integer_rate=_native.multiply_add_rate(isa, threads, integer=True),
        float_rate=_native.multiply_add_rate(isa, threads, integer=False),
    )


class ModelWork(msgspec.Struct, frozen=True, kw_only=True):
    """What a step costs: the weights once, and for each row its linears and its attention.

    `token_macs` are the multiply-adds of the linears for each token, `output_macs` those for each row that
    gives logits; both are in integers and in floats. `attention_macs` are those of one token for each
    position that it sees.
    """

    weight_bytes: int
    kv_position_bytes: int
    token_macs: tuple[int, int]
    output_macs: tuple[int, int]
    attention_macs: int

    def step_bytes(self, workload: Workload) -> float:
        """Bytes that a step of the workload reads; a prefill's keys and values are still in the caches."""
        if workload.kind == "prefill":
            return self.weight_bytes
        return self.weight_bytes + workload.batch * workload.context * self.kv_position_bytes

    def step_macs(self, workload: Workload) -> tuple[float, float]:
        """Multiply-adds of a step: int8, float32."""
        tokens = workload.batch * (workload.prompt_tokens if workload.kind == "prefill" else 1)
        integer = tokens * self.token_macs[0] + workload.batch * self.output_macs[0]
        floating = tokens * self.token_macs[1] + workload.batch * self.output_macs[1]
        return integer, floating + tokens * workload.context * self.attention_macs

    def ceiling(self, workload: Workload, roofline: Roofline) -> Ceiling:
        """The most tokens a second that `roofline` allows."""
        integer, floating = self.step_macs(workload)
        reading = self.step_bytes(workload) / roofline.read_bandwidth
        computing = integer / roofline.integer_rate + floating / roofline.float_rate
        tokens = workload.batch * (workload.prompt_tokens if workload.kind == "prefill" else 1)
        return Ceiling(
            tokens_per_second=tokens / max(reading, computing),
            bound="memory" if reading > computing else "arithmetic",
        )


class Ceiling(msgspec.Struct, frozen=True):
    """The most tokens a second, and what bounds them."""

    tokens_per_second: float
    bound: Literal["memory", "arithmetic"]


def work_of_model(path: Path, weight_bytes: int) -> ModelWork:
    """The work of the model at `path` with an int16 KV cache; `weight_bytes` as in `count_work`."""
    model = load_model(EngineConfig(model=str(path)))
    program = trace(model.spec)
    return count_work(program, model.weights, KVCacheSpec(program.cache_layers, "int16"), weight_bytes)


def count_work(
    program: Program, weights: Mapping[str, Tensor], kv_cache: KVCacheSpec, weight_bytes: int
) -> ModelWork:
    """Count the work of `program`; `weight_bytes` is what its packed weights take."""
    macs = {rows: [0, 0] for rows in Rows}
    attention = 0
    for each in program.instructions:
        work = OPS[each.op].work(each)
        attention += work.pair
        for name, row_macs in work.row.items():
            macs[program.buffers[each.output.buffer].rows][weights[name].encoding.is_float] += row_macs
    return ModelWork(
        weight_bytes=weight_bytes,
        kv_position_bytes=kv_cache.block_bytes // BLOCK_SIZE,
        token_macs=(macs[Rows.TOKENS][0], macs[Rows.TOKENS][1]),
        output_macs=(macs[Rows.OUTPUTS][0], macs[Rows.OUTPUTS][1]),
        attention_macs=attention,
    )
