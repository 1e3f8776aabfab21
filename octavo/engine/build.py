"""From a configuration to an engine that is ready: model, backend, memory."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from octavo import __version__
from octavo.config import EngineConfig
from octavo.engine.engine import Engine, EngineSettings
from octavo.engine.kv.kv_groups import KVGroup, kv_groups, room_in_tokens
from octavo.engine.kv.memory import num_kv_blocks
from octavo.engine.kv.needs import Window
from octavo.engine.kv.offload.content_key import content_key
from octavo.engine.kv.offload.from_config import make_offload
from octavo.engine.scheduling.scheduler import SchedulerSettings
from octavo.engine.scheduling.token_budget import Targets
from octavo.machine.cache_directory import cache_directory
from octavo.machine.cpus import usable_cpus
from octavo.machine.memory import machine_memory
from octavo.model.decoder import trace
from octavo.model.load import LoadedModel, load_model, resolve_model
from octavo.model.spec import ModelSpec
from octavo.runtime.backend import Backend, Limits
from octavo.runtime.kv_cache import KVCacheSpec, PagedKV
from octavo.runtime.program import Program, Rows
from octavo.structured.compiler import GrammarCompiler

if TYPE_CHECKING:
    from octavo.formats.gguf import GGUFFile
    from octavo.formats.safetensors import SafetensorsDirectory
    from octavo.formats.scaling import Scaling
    from octavo.runtime.packed_cache import PackedCache
    from octavo.tokenizer.tokenizer import Tokenizer

_log = logging.getLogger(__name__)

_PROMPT_LOGPROB_ROWS = 64
"""Rows of logits in a step beyond one a sequence: what prompts that want log probabilities share."""


def build_engine(config: EngineConfig, grammars: GrammarCompiler | None = None) -> Engine:
    """Load and compile the model of `config`, size its KV cache, and make its engine.

    `grammars` are those of the model's tokenizer, by default a compiler of the engine's own.

    Raises ValueError, naming the file or the flag, for a model or settings that can not run here.
    """
    started = time.perf_counter()
    memory = machine_memory()
    model = load_model(config, _calibrated)
    chosen = _choose_backend(config, model)
    program = trace(model.spec)
    groups = kv_groups(program.cache_layers, model.max_model_len)
    scheduler = scheduler_settings(config, model.max_model_len, groups)
    limits = step_limits(scheduler, model.max_model_len, model.spec.vocab_size)
    kv_cache = kv_cache_spec(config, program.cache_layers, groups)
    executable = chosen.backend.compile(program, model.weights, kv_cache, limits)
    _log.info(
        "Weights take %s (%s, %.1f s)",
        _mebibytes(executable.weight_bytes),
        chosen.isa,
        time.perf_counter() - started,
    )

    reserved_bytes = executable.weight_bytes + activation_bytes(program, limits)
    num_blocks = num_kv_blocks(
        config,
        block_bytes=kv_cache.block_bytes,
        reserved_bytes=reserved_bytes,
        max_model_len=model.max_model_len,
        memory=memory,
        groups=groups,
        chunk=limits.max_tokens,
    )
    room = room_in_tokens(groups, num_blocks, model.max_model_len, limits.max_tokens)
    _log.info(
        "KV cache size: %s tokens in %s blocks, %s",
        f"{room:,}",
        f"{num_blocks:,}",
        _mebibytes(num_blocks * kv_cache.block_bytes),
    )
    _log.info(
        "Maximum concurrency for %s tokens per request: %.2fx",
        f"{model.max_model_len:,}",
        room / model.max_model_len,
    )
    if len(groups) > 1:
        _log.info("KV groups: %s", "; ".join(map(_describe, groups)))
    offload = make_offload(
        config,
        executable,
        block_bytes=kv_cache.block_bytes,
        spare_bytes=memory.available - reserved_bytes - num_blocks * kv_cache.block_bytes,
        key=lambda: content_key(
            program,
            model.weights,
            kv_cache,
            fingerprint=model.fingerprint,
            code=chosen.code(),
            hash_algorithm=config.prefix_caching_hash_algo,
        ),
    )
    settings = EngineSettings(
        scheduler=scheduler,
        max_model_len=model.max_model_len,
        vocab_size=model.spec.vocab_size,
        num_blocks=num_blocks,
        prefix_caching=config.enable_prefix_caching,
        hash_algorithm=config.prefix_caching_hash_algo,
        block_bytes=kv_cache.block_bytes,
        isa=chosen.isa,
        async_scheduling=chosen.spares_cpu if config.async_scheduling is None else config.async_scheduling,
        followed_blocks=config.kv_cache_metrics_sample if config.kv_cache_metrics else 0.0,
    )
    if grammars is None:
        grammars = GrammarCompiler(lambda: _tokenizer(config), model.spec.vocab_size, model.eos_token_ids)
    return Engine(executable, settings, offload, grammars)


def _calibrated(
    checkpoint: GGUFFile | SafetensorsDirectory, spec: ModelSpec, config: EngineConfig
) -> dict[str, Scaling]:
    from octavo.quantise.on_load import calibrated  # only for awq-like

    return calibrated(checkpoint, spec, config)


def _tokenizer(config: EngineConfig) -> Tokenizer:
    from octavo.tokenizer.load import load_tokenizer

    return load_tokenizer(resolve_model(config.model), config.tokenizer)


@dataclass(frozen=True, slots=True)
class _Chosen:
    backend: Backend
    isa: str
    code: Callable[[], str]
    """Names what computes, to the bit."""
    spares_cpu: bool
    """Whether it leaves a CPU to others."""


def _choose_backend(config: EngineConfig, model: LoadedModel) -> _Chosen:
    if config.backend == "reference":
        from octavo.runtime.reference import ReferenceBackend

        return _Chosen(
            ReferenceBackend(), "numpy", lambda: f"octavo {__version__}, numpy {np.__version__}", False
        )
    try:
        from octavo.runtime.native import NativeBackend
    except ImportError as error:
        raise ValueError(
            f"backend (--backend) native is not built here ({error}); build octavo, or use reference"
        ) from error
    native = NativeBackend(threads=config.threads, packed_cache=_packed_cache(config, model))
    spares_cpu = native.threads < usable_cpus()
    return _Chosen(native, native.isa, native.code_digest, spares_cpu)


def _packed_cache(config: EngineConfig, model: LoadedModel) -> PackedCache | None:
    """Where packed weights are kept, if they are to be and there is such a place."""
    from octavo.runtime.packed_cache import PackedCache
    from octavo.runtime.packed_weights import LAYOUT

    most = int(config.packed_cache_gib * (1 << 30))
    if not most or not model.fingerprint:
        return None
    try:
        directory = cache_directory() / "packed"
    except ValueError:
        return None
    return PackedCache(directory, f"{model.fingerprint}-{LAYOUT}", model.num_bytes, most)


def scheduler_settings(
    config: EngineConfig, max_model_len: int, groups: tuple[KVGroup, ...] = (KVGroup(),)
) -> SchedulerSettings:
    """What the flags say of steps, for a model with requests of up to `max_model_len` tokens.

    `groups` are the model's KV groups.
    """
    budget = config.max_num_batched_tokens
    if not config.enable_chunked_prefill:
        budget = max(budget, max_model_len)
    return SchedulerSettings(
        max_num_seqs=config.max_num_seqs,
        max_num_batched_tokens=budget,
        max_outputs=config.max_num_seqs + _PROMPT_LOGPROB_ROWS,
        chunked_prefill=config.enable_chunked_prefill,
        max_num_partial_prefills=config.max_num_partial_prefills,
        max_long_partial_prefills=config.max_long_partial_prefills,
        long_prefill_token_threshold=config.long_prefill_token_threshold,
        policy=config.scheduling_policy,
        priority_aging=config.priority_aging,
        targets=Targets(_seconds(config.target_ttft), _seconds(config.target_itl)),
        kv_groups=groups,
    )


def step_limits(scheduler: SchedulerSettings, max_model_len: int, vocab_size: int) -> Limits:
    """The largest step of an engine with these settings."""
    return Limits(
        max_tokens=scheduler.max_num_batched_tokens,
        max_outputs=scheduler.max_outputs,
        max_sequences=scheduler.max_num_seqs,
        max_position=max_model_len,
        vocab_size=vocab_size,
    )


def _seconds(milliseconds: float | None) -> float | None:
    return None if milliseconds is None else milliseconds / 1000


def kv_cache_spec(
    config: EngineConfig, layers: tuple[PagedKV, ...], groups: tuple[KVGroup, ...] = (KVGroup(),)
) -> KVCacheSpec:
    """The KV cache of `layers` in the type that the flags ask for; one of `groups` is of all layers.

    Raises ValueError for int16 items of keys or values with an odd width: the kernels multiply them in pairs.
    """
    odd = [dim for layer in layers for dim in (layer.key_dim, layer.value_dim) if dim % 2]
    short = {"auto": "float16" if odd else "int16", "f16": "float16", "bf16": "bfloat16", "fp8_e4m3": "fp8"}
    dtype = short.get(config.kv_cache_dtype, config.kv_cache_dtype)
    if odd and dtype == "int16":
        raise ValueError(
            f"kv_cache_dtype (--kv-cache-dtype) int16 needs an even head_dim and the model's is {odd[0]}; "
            f"use auto, which takes float16 here"
        )
    return KVCacheSpec(layers, dtype, tuple(group.layers for group in groups) if len(groups) > 1 else ())


def activation_bytes(program: Program, limits: Limits) -> int:
    """The float32 arenas of the largest step."""
    tokens, outputs = program.arena_cols[Rows.TOKENS], program.arena_cols[Rows.OUTPUTS]
    return 4 * (limits.max_tokens * tokens + limits.max_outputs * outputs)


def _describe(group: KVGroup) -> str:
    need = group.need
    seen = f"a window of {need.tokens:,} tokens" if isinstance(need, Window) else "all tokens"
    return f"{len(group.layers)} layers that see {seen}"


def _mebibytes(count: int) -> str:
    return f"{count / (1 << 20):,.1f} MiB"
