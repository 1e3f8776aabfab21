"""From a question to a plan."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable
from dataclasses import dataclass

from octavo.config import EngineConfig, check_settings, setting
from octavo.engine.scheduling.scheduler import SchedulerSettings
from octavo.machine.cpus import usable_cpus
from octavo.plan.devices import Device, parse_devices
from octavo.plan.memory import MemoryPlan, device_memory
from octavo.plan.report import Plan
from octavo.plan.service import Service, plan_service
from octavo.plan.shape import ModelShape, shape_of
from octavo.plan.simulation import Load
from octavo.plan.step_cost import Roofline, StepCost
from octavo.runtime.kv_cache import BLOCK_SIZE

BYTES_PER_WEIGHT = {"bfloat16": 2.0, "fp8": 1.0, "int8": 1.0, "int4": 0.5625}
"""int4 with a 16-bit scale for each group of 32, roughly."""
BYTES_PER_KV_VALUE = {"bfloat16": 2.0, "fp8": 1.0, "float32": 4.0}
DEVICE_MAX_BATCHED_TOKENS = (8192, 2048, 512, 256)
MACHINE_MAX_BATCHED_TOKENS = (512, 256, 128)
"""Token budgets of a step to try: a smaller one keeps prompts from delaying tokens, a larger is faster."""


@dataclass(slots=True, kw_only=True)
class PlanConfig:
    """What a plan is asked for."""

    model: str = setting("", "A path, or a known name such as Llama-3.1-8B. Empty: the demo model.", "Plan")
    gpu: str | None = setting(
        None, "Devices of one replica, such as 2xA100-80. Default: this machine, measured.", "Plan"
    )
    max_model_len: int | None = setting(
        None,
        "Most tokens of a request. Default: 8192, or what the model allows.",
        "Plan",
        unit="tokens",
        low=2,
    )
    rps: float = setting(1.0, "Requests a second, of all replicas together.", "Load", low=1e-3, high=1e6)
    input_tokens: int = setting(
        512, "Prompt tokens of a request.", "Load", unit="tokens", low=1, high=1_000_000, aliases=("--in",)
    )
    output_tokens: int = setting(
        128, "Generated tokens of a request.", "Load", unit="tokens", low=1, high=100_000, aliases=("--out",)
    )
    target_ttft: float = setting(
        2000.0, "The p95 of the time to first token to keep to, in milliseconds.", "Load", low=1
    )
    target_itl: float = setting(
        100.0, "The p95 of the time between tokens to keep to, in milliseconds.", "Load", low=0.1
    )
    dtype: str = setting(
        "bfloat16",
        "Type of the weights of a model that is not here.",
        "Devices",
        choices=tuple(BYTES_PER_WEIGHT),
    )
    kv_cache_dtype: str = setting(
        "bfloat16", "Type of the KV cache.", "Devices", choices=tuple(BYTES_PER_KV_VALUE)
    )
    gpu_memory_utilization: float = setting(
        0.90, "Share of the devices' memory to use.", "Devices", low=0.01, high=1.0
    )
    max_num_seqs: int = setting(256, "Most sequences in a step.", "Devices", low=1, high=4096)
    max_num_batched_tokens: int | None = setting(
        None, "Token budget of a step. Default: the best of a few.", "Devices", unit="tokens", low=1
    )
    price: float | None = setting(None, "Price of one device (or of this machine) an hour.", "Cost", low=0)

    def __post_init__(self) -> None:
        check_settings(self)

    @property
    def load(self) -> Load:
        """The load of all replicas."""
        return Load(self.rps, self.input_tokens, self.output_tokens, 0)

    @property
    def tokens_per_request(self) -> int:
        """Prompt and completion."""
        return self.input_tokens + self.output_tokens


def make_plan(config: PlanConfig, progress: Callable[[str], object] = lambda _: None) -> Plan:
    """The plan; raises ValueError for what can not be planned, naming the flag."""
    if config.gpu is None:
        return _plan_machine(config, progress)
    count, device = parse_devices(config.gpu)
    shape = shape_of(config.model)
    max_model_len = _max_model_len(config, shape.spec.max_position)
    memory = _memory(config, shape, device, count, max_model_len)
    budgets = _budgets(config, DEVICE_MAX_BATCHED_TOKENS)
    service, advice, max_tokens = None, [], budgets[0]
    if memory.fits:
        cost = Roofline(
            shape=shape,
            device=device,
            count=count,
            weight_bytes=memory.weight_bytes,
            kv_bytes_per_value=BYTES_PER_KV_VALUE[config.kv_cache_dtype],
            eight_bit=config.dtype == "fp8",
        )
        max_tokens, service = _service(config, cost, budgets, memory, progress)
    else:
        advice = list(_ways_to_fit(config, shape, device, count, max_model_len))
    machine = (
        f"{count} x {device.name}: {device.memory * count / 1e9:,.0f} GB, {device.bandwidth / 1e9:,.0f} GB/s "
        f"and {device.flops_16bit / 1e12:,.0f} TFLOPS each, by their data sheets"
    )
    flags = [f"--model {config.model}"]
    if count > 1:
        flags.append(f"--tensor-parallel-size {count}")
    flags.append(f"--gpu-memory-utilization {config.gpu_memory_utilization:g}")
    flags += _flags(max_model_len, service, config.max_num_seqs, max_tokens)
    return _plan(config, f"{shape.name} ({config.dtype})", machine, count, memory, service, flags, advice)


def _plan_machine(config: PlanConfig, progress: Callable[[str], object]) -> Plan:
    from octavo.model.load import resolve_model
    from octavo.plan.machine_cost import measure
    from octavo.plan.serving_cost import measure_serving

    try:
        path = str(resolve_model(config.model))
    except ValueError as error:
        raise ValueError(f"{error}, or name devices (--gpu) to plan for a known name") from error
    shape = shape_of(path)
    max_model_len = _max_model_len(config, shape.spec.max_position)
    engine = EngineConfig(model=config.model, max_model_len=max_model_len, max_num_seqs=config.max_num_seqs)
    budgets = _budgets(config, MACHINE_MAX_BATCHED_TOKENS)
    engine = dataclasses.replace(engine, max_num_batched_tokens=budgets[0])
    measured = measure(engine, progress)
    ready = measured.ready
    cost = measure_serving(engine, measured, progress)
    groups = shape.kv_groups(max_model_len)
    block_bytes = ready.kv_cache_bytes / ready.num_blocks
    layers = max(len(group.layers) for group in groups)
    memory = MemoryPlan(
        total_bytes=float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")),
        weight_bytes=ready.weight_bytes,
        reserved_bytes=0.0,
        kv_cache_bytes=ready.kv_cache_bytes,
        kv_bytes_per_token=block_bytes / BLOCK_SIZE * shape.spec.num_layers / layers,
        kv_block_bytes=block_bytes,
        kv_groups=groups,
        max_model_len=max_model_len,
        max_num_batched_tokens=budgets[0],
        tokens_per_request=config.tokens_per_request,
    )
    max_tokens, service = _service(config, cost, budgets, memory, progress)
    machine = f"this one: {usable_cpus()} CPUs, {ready.isa}; steps and streams were timed"
    flags = [f"--model {config.model}"] if config.model else []
    flags += _flags(max_model_len, service, config.max_num_seqs, max_tokens)
    return _plan(config, config.model or "the demo model", machine, 1, memory, service, flags, [])


def _plan(
    config: PlanConfig,
    model: str,
    machine: str,
    count: int,
    memory: MemoryPlan,
    service: Service | None,
    flags: list[str],
    advice: list[str],
) -> Plan:
    return Plan(
        model=model,
        machine=machine,
        devices_per_replica=count,
        requests_per_second=config.rps,
        input_tokens=config.input_tokens,
        output_tokens=config.output_tokens,
        target_ttft=config.target_ttft / 1e3,
        target_itl=config.target_itl / 1e3,
        memory=memory,
        service=service,
        flags=flags,
        price_per_hour=config.price,
        advice=advice,
    )


def _max_model_len(config: PlanConfig, most: int) -> int:
    length = config.max_model_len or min(8192, most)
    if length > most:
        raise ValueError(f"max_model_len (--max-model-len) is at most {most} for this model, got {length}")
    if config.tokens_per_request > length:
        raise ValueError(
            f"input_tokens (--in) and output_tokens (--out) are {config.tokens_per_request} together, over "
            f"max_model_len (--max-model-len) {length}"
        )
    return length


def _memory(
    config: PlanConfig, shape: ModelShape, device: Device, count: int, max_model_len: int
) -> MemoryPlan:
    return device_memory(
        shape,
        device,
        count,
        utilization=config.gpu_memory_utilization,
        bytes_per_weight=BYTES_PER_WEIGHT[config.dtype],
        kv_bytes_per_value=BYTES_PER_KV_VALUE[config.kv_cache_dtype],
        max_model_len=max_model_len,
        tokens_per_request=config.tokens_per_request,
        max_num_batched_tokens=_budgets(config, DEVICE_MAX_BATCHED_TOKENS)[0],
        max_num_seqs=config.max_num_seqs,
    )


def _budgets(config: PlanConfig, candidates: tuple[int, ...]) -> tuple[int, ...]:
    return candidates if config.max_num_batched_tokens is None else (config.max_num_batched_tokens,)


def _service(
    config: PlanConfig,
    cost: StepCost,
    budgets: tuple[int, ...],
    memory: MemoryPlan,
    progress: Callable[[str], object],
) -> tuple[int, Service]:
    """The token budget that takes the fewest replicas, the largest of those, and what it gives."""
    targets = config.target_ttft / 1e3, config.target_itl / 1e3

    def service_with(budget: int) -> Service:
        settings = SchedulerSettings(
            config.max_num_seqs, budget, config.max_num_seqs, kv_groups=memory.kv_groups
        )
        return plan_service(cost, settings, memory.num_blocks, config.load, targets, progress)

    services = [(budget, service_with(budget)) for budget in budgets]
    return min(services, key=lambda each: each[1].replicas or math.inf)


def _flags(max_model_len: int, service: Service | None, max_num_seqs: int, max_tokens: int) -> list[str]:
    if service is not None:
        max_num_seqs = service.max_num_seqs
    return [
        f"--max-model-len {max_model_len}",
        f"--max-num-seqs {max_num_seqs}",
        f"--max-num-batched-tokens {max_tokens}",
    ]


def _ways_to_fit(
    config: PlanConfig, shape: ModelShape, device: Device, count: int, max_model_len: int
) -> list[str]:
    """Changes that would each do: more devices, fewer tokens, smaller weights."""
    ways = []
    for more in (2, 4, 8, 16):
        if more > count and _memory(config, shape, device, more, max_model_len).fits:
            ways.append(f"--gpu {more}x{device.name} would do")
            break
    tokens = _memory(config, shape, device, count, max_model_len).longest
    if tokens >= config.tokens_per_request:
        ways.append(f"--max-model-len {tokens} would do")
    if shape.stored_bytes is None:
        for dtype in ("fp8", "int4"):
            smaller = dataclasses.replace(config, dtype=dtype)
            if BYTES_PER_WEIGHT[dtype] < BYTES_PER_WEIGHT[config.dtype] and (
                _memory(smaller, shape, device, count, max_model_len).fits
            ):
                ways.append(f"--dtype {dtype} would do")
                break
    return ways or ["no change to one of --gpu, --max-model-len and --dtype alone would do"]
