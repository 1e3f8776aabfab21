"""vLLM's flags that octavo does not have: a command line brought along from vLLM works, or says why not."""

from __future__ import annotations

import argparse
import json
from typing import Any

from octavo.config import flag_name
from octavo.flags.from_config import json_value
from octavo.flags.vllm_arguments import ONLY_AT, WITHOUT_EFFECT, check_argument

NAMES = (*ONLY_AT, *sorted(WITHOUT_EFFECT))

_SHORT = {
    "tensor_parallel_size": "-tp",
    "pipeline_parallel_size": "-pp",
    "data_parallel_size": "-dp",
    "decode_context_parallel_size": "-dcp",
    "enable_expert_parallel": "-ep",
    "attention_config": "-ac",
    "compilation_config": "-cc",
    "optimization_level": "-O",
    "speculative_config": "-sc",
}
_SWITCHES = (
    "calculate_kv_scales",
    "interleave_mm_strings",
    "kv_sharing_fast_prefill",
    "numa_bind",
    "ray_workers_use_nsight",
    "skip_mm_profiling",
    "trust_remote_code",
)
_LISTS = (
    "cuda_graph_sizes",
    "cudagraph_capture_sizes",
    "ignore_patterns",
    "logits_processors",
    "lora_modules",
)


def add_vllm_flags(parser: argparse.ArgumentParser) -> None:
    """Add them all, hidden from the help."""
    for name in NAMES:
        options: dict[str, Any] = {"type": json_value}
        if _is_switch(name):
            options = {"action": argparse.BooleanOptionalAction}
        elif name in _LISTS:
            options["nargs"] = "+"
        names = [flag_name(name), *([_SHORT[name]] if name in _SHORT else [])]
        parser.add_argument(*names, dest=name, default=argparse.SUPPRESS, help=argparse.SUPPRESS, **options)
    parser.add_argument("-q", dest="quantization", default=argparse.SUPPRESS, help=argparse.SUPPRESS)


def check_vllm_flags(arguments: argparse.Namespace) -> None:
    """Raise ValueError for a flag of vLLM's with a value that asks for what octavo does not do."""
    for name in ONLY_AT:
        if hasattr(arguments, name):
            check_argument(name, getattr(arguments, name), _as_flag)


def without_effect(arguments: argparse.Namespace) -> list[str]:
    """The flags that were given to `octavo serve` and change nothing there."""
    names = sorted(WITHOUT_EFFECT - {"disable_log_stats"})  # which is --log-stats-interval 0
    return [flag_name(name) for name in names if hasattr(arguments, name)]


def _is_switch(name: str) -> bool:
    if name in ONLY_AT:
        return ONLY_AT[name][0][0] is False
    return name in _SWITCHES or name.startswith(("disable_", "enable_", "enforce_", "exclude_", "use_"))


def _as_flag(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return flag_name(name if value else f"no_{name}")
    return f"{flag_name(name)} {value if isinstance(value, str) else json.dumps(value)}"
