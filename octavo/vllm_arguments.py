"""Arguments of vLLM's `LLM` that octavo does not have: which do no harm, and why the others can not be."""

from __future__ import annotations

import dataclasses
import difflib
from typing import Any

from octavo.config import EngineConfig

WITHOUT_EFFECT = frozenset(
    {
        "compilation_config",
        "disable_custom_all_reduce",
        "disable_frontend_multiprocessing",
        "disable_log_stats",
        "download_dir",
        "enable_prompt_tokens_details",
        "enable_server_load_tracking",
        "enforce_eager",
        "exclude_tools_when_tool_choice_none",
        "max_seq_len_to_capture",
        "swap_space",
        "use_tqdm_on_load",
    }
)
"""They tune what is not there (CUDA graphs, swapping, downloads), so that any value may be dropped."""

ONLY_AT: dict[str, tuple[tuple[Any, ...], str]] = {
    "tensor_parallel_size": ((1,), "the model runs in one process"),
    "pipeline_parallel_size": ((1,), "the model runs in one process"),
    "data_parallel_size": ((1,), "start several servers instead"),
    "distributed_executor_backend": ((None,), "the model runs in one process"),
    "trust_remote_code": ((False,), "code that comes with a checkpoint is never run"),
    "load_format": (("auto",), "GGUF and safetensors are told apart by themselves"),
    "revision": ((None,), "models are read from this machine"),
    "tokenizer_revision": ((None,), "models are read from this machine"),
    "hf_token": ((None,), "models are read from this machine"),
    "tokenizer_mode": (("auto",), "there is one kind of tokenizer"),
    "skip_tokenizer_init": ((False,), "prompts and outputs need the tokenizer"),
    "runner": (("auto", "generate"), "models generate text"),
    "task": (("auto", "generate"), "models generate text"),
    "cpu_offload_gb": ((0,), "the model runs on the CPU as it is"),
    "kv_offloading_backend": ((None, "native"), "blocks go to --kv-offload-gb and --kv-offload-dir"),
    "guided_decoding_backend": ((None, "auto", "guidance"), "llguidance is what there is"),
    "enable_lora": ((False,), "LoRA adapters are not supported yet"),
    "speculative_config": ((None,), "speculative decoding is not supported yet"),
    "reasoning_parser": ((None, ""), "thinking is not told apart from the answer yet"),
    "tool_parser_plugin": ((None, ""), "code of others is only taken by --middleware"),
    "chat_template_content_format": (("auto",), "what a template wants is seen from the template"),
    "lora_modules": ((None,), "LoRA adapters are not supported yet"),
    "log_config_file": ((None,), "--log-format json is what there is"),
    "enable_log_outputs": ((False,), "only prompts are logged (--enable-log-requests)"),
    "enable_tokenizer_info_endpoint": ((False,), "there is no /tokenizer_info"),
    "enable_ssl_refresh": ((False,), "certificates are read once"),
    "allowed_local_media_path": ((None, ""), "models take text only"),
    "headless": ((False,), "the server and its engine start together"),
    "hf_overrides": ((None, {}), "edit the checkpoint's config.json instead"),
    "limit_mm_per_prompt": ((None, {}), "models take text only"),
}


def engine_config(model: str, arguments: dict[str, Any]) -> EngineConfig:
    """The config that the keyword arguments of `LLM(model, ...)` ask for.

    Raises ValueError for a value out of bounds or an argument of vLLM's that only works at its default,
    TypeError for an argument that neither has.
    """
    fields = {field.name for field in dataclasses.fields(EngineConfig)}
    settings = {}
    for name, value in arguments.items():
        if name in fields:
            settings[name] = value
        elif name in ONLY_AT:
            allowed, reason = ONLY_AT[name]
            if value not in allowed:
                works = " or ".join(f"{name}={each!r}" for each in allowed)
                raise ValueError(f"{name}={value!r} does not work here: {reason}; leave it at {works}")
        elif name not in WITHOUT_EFFECT:
            close = difflib.get_close_matches(name, fields, 1)
            hint = f"; did you mean {close[0]}?" if close else f"; there are {', '.join(sorted(fields))}"
            raise TypeError(f"LLM() got an unexpected keyword argument {name!r}{hint}")
    return EngineConfig(model=model, **settings)
