"""Arguments of vLLM's `LLM` that octavo does not have: which do no harm, and why the others can not be."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable
from typing import Any

from octavo.config import EngineConfig

WITHOUT_EFFECT = frozenset(
    {
        "additional_config",
        "attention_backend",
        "attention_config",
        "calculate_kv_scales",
        "code_revision",
        "collect_detailed_traces",
        "compilation_config",
        "cuda_graph_sizes",
        "cudagraph_capture_sizes",
        "disable_async_output_proc",
        "disable_cascade_attn",
        "disable_custom_all_reduce",
        "disable_frontend_multiprocessing",
        "disable_log_stats",
        "disable_mm_preprocessor_cache",
        "download_dir",
        "enable_dbo",
        "enable_expert_parallel",
        "enable_flashinfer_autotune",
        "enable_multimodal_encoder_data_parallel",
        "enable_prompt_tokens_details",
        "enable_server_load_tracking",
        "enforce_eager",
        "exclude_tools_when_tool_choice_none",
        "hf_token",
        "ignore_patterns",
        "interleave_mm_strings",
        "kernel_config",
        "kv_sharing_fast_prefill",
        "limit_mm_per_prompt",
        "max_cpu_loras",
        "max_cudagraph_capture_size",
        "max_lora_rank",
        "max_loras",
        "max_parallel_loading_workers",
        "max_seq_len_to_capture",
        "media_io_kwargs",
        "mm_encoder_attn_backend",
        "mm_encoder_tp_mode",
        "mm_processor_cache_gb",
        "mm_processor_cache_type",
        "mm_processor_kwargs",
        "model_loader_extra_config",
        "multi_step_stream_outputs",
        "num_scheduler_steps",
        "numa_bind",
        "optimization_level",
        "performance_mode",
        "preemption_mode",
        "ray_workers_use_nsight",
        "safetensors_load_strategy",
        "scheduler_delay_factor",
        "show_hidden_metrics_for_version",
        "skip_mm_profiling",
        "stream_interval",
        "swap_space",
        "trust_remote_code",
        "use_tqdm_on_load",
        "use_v2_block_manager",
    }
)
"""They tune something that octavo does not have (CUDA graphs, swapping, downloads, images), or allow
something that it never does (running code that comes with a checkpoint). So any value may be dropped."""

ONLY_AT: dict[str, tuple[tuple[Any, ...], str]] = {
    "tensor_parallel_size": ((1,), "the model runs in one process"),
    "pipeline_parallel_size": ((1,), "the model runs in one process"),
    "data_parallel_size": ((1,), "start several servers instead"),
    "data_parallel_rank": ((None, 0), "start several servers instead"),
    "decode_context_parallel_size": ((1,), "the model runs in one process"),
    "nnodes": ((1,), "the model runs in one process"),
    "node_rank": ((0,), "the model runs in one process"),
    "distributed_executor_backend": ((None, "mp", "uni"), "the model runs in one process"),
    "load_format": (
        ("auto", "safetensors", "gguf", "hf"),
        "weights are read from GGUF and safetensors files",
    ),
    "config_format": (("auto", "hf"), "a model is described by its config.json or its GGUF file"),
    "model_impl": (("auto", "vllm"), "models are octavo's own"),
    "device": (("auto", "cpu"), "the model runs on the CPU"),
    "revision": ((None, "main"), "models are read from this machine"),
    "tokenizer_revision": ((None, "main"), "models are read from this machine"),
    "tokenizer_mode": (("auto", "hf", "slow"), "there is one kind of tokenizer"),
    "skip_tokenizer_init": ((False,), "prompts and outputs need the tokenizer"),
    "runner": (("auto", "generate"), "models generate text"),
    "task": (("auto", "generate"), "models generate text"),
    "convert": (("auto", "none"), "models generate text"),
    "pooler_config": ((None,), "models generate text"),
    "override_pooler_config": ((None,), "models generate text"),
    "cpu_offload_gb": ((0,), "the model runs on the CPU as it is"),
    "kv_offloading_backend": (
        (None, "native"),
        "evicted blocks go only where --kv-offload-gb and --kv-offload-dir say",
    ),
    "kv_transfer_config": ((None,), "evicted blocks go only where --kv-offload-gb and --kv-offload-dir say"),
    "kv_events_config": ((None,), "the KV cache is shown only in the metrics and on the page"),
    "guided_decoding_backend": ((None, "auto", "guidance"), "there is only llguidance"),
    "enable_lora": ((False,), "LoRA adapters are not supported yet"),
    "lora_modules": ((None,), "LoRA adapters are not supported yet"),
    "speculative_config": ((None,), "speculative decoding is not supported yet"),
    "speculative_model": ((None,), "speculative decoding is not supported yet"),
    "num_speculative_tokens": ((None,), "speculative decoding is not supported yet"),
    "reasoning_parser": ((None, ""), "reasoning is not told apart from the answer yet"),
    "tool_parser_plugin": ((None, ""), "only --middleware runs code of your own"),
    "tool_server": ((None,), "tool calling is not supported yet"),
    "logits_processors": ((None,), "only --middleware runs code of your own"),
    "scheduler_cls": ((None,), "only --middleware runs code of your own"),
    "worker_cls": ((None, "auto"), "only --middleware runs code of your own"),
    "worker_extension_cls": ((None, ""), "only --middleware runs code of your own"),
    "logprobs_mode": (("raw_logprobs",), "log probabilities are those of the model"),
    "enable_sleep_mode": ((False,), "there is no /sleep"),
    "disable_sliding_window": ((False,), "--max-model-len can be set to the window"),
    "rope_scaling": ((None, {}), "edit the checkpoint's config.json instead"),
    "rope_theta": ((None,), "edit the checkpoint's config.json instead"),
    "hf_overrides": ((None, {}), "edit the checkpoint's config.json instead"),
    "chat_template_content_format": (("auto",), "the template itself shows which format it wants"),
    "log_config_file": ((None,), "there is only --log-format json"),
    "enable_log_outputs": ((False,), "only prompts are logged (--enable-log-requests)"),
    "enable_tokenizer_info_endpoint": ((False,), "there is no /tokenizer_info"),
    "enable_ssl_refresh": ((False,), "certificates are read once"),
    "allowed_local_media_path": ((None, ""), "models take text only"),
    "headless": ((False,), "the server and its engine start together"),
}


def check_argument(name: str, value: Any, spell: Callable[[str, Any], str]) -> None:
    """Raise ValueError, in the words of `spell`, for a value that asks for what octavo does not do."""
    allowed, reason = ONLY_AT.get(name, ((value,), ""))
    if not any(value == each and isinstance(value, bool) == isinstance(each, bool) for each in allowed):
        works = " or ".join(spell(name, each) for each in allowed if each is not None)
        hint = f"; leave it out, or at {works}" if works else "; leave it out"
        raise ValueError(f"{spell(name, value)} does not work here: {reason}{hint}")


def _as_keyword(name: str, value: Any) -> str:
    return f"{name}={value!r}"


def engine_config(model: str, arguments: dict[str, Any]) -> EngineConfig:
    """The config that the keyword arguments of `LLM(model, ...)` ask for.

    Raises ValueError for a value out of bounds or an argument of vLLM's that only works at its default,
    TypeError for an argument that neither has.
    """
    fields = {field.name: field for field in dataclasses.fields(EngineConfig)}
    settings = {}
    for name, value in arguments.items():
        if name in fields:
            if value is not None or fields[name].default is None:  # as in vLLM, None is the default
                settings[name] = value
        elif name in ONLY_AT:
            check_argument(name, value, _as_keyword)
        elif name not in WITHOUT_EFFECT:
            close = difflib.get_close_matches(name, fields, 1)
            hint = f"; did you mean {close[0]}?" if close else f"; there are {', '.join(sorted(fields))}"
            raise TypeError(f"LLM() got an unexpected keyword argument {name!r}{hint}")
    return EngineConfig(model=model, **settings)
