"""The engine's settings, each declared once with its help, bounds and vLLM flag name.

The command line, the documentation's table and the error messages are made from these fields.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

DEFAULT_KV_CACHE_BYTES = 4 << 30
"""KV cache that is taken when neither a size nor a share of memory was asked for."""


@dataclass(frozen=True, slots=True)
class Flag:
    """What the command line and the docs say of a setting."""

    help: str
    group: str
    unit: str = ""
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()

    @classmethod
    def of(cls, field: dataclasses.Field[Any]) -> Flag:
        """The flag of a config field."""
        flag = field.metadata["flag"]
        assert isinstance(flag, Flag)
        return flag


def setting(default: Any, help: str, group: str, **rest: Any) -> Any:
    """A dataclass field that is also a command-line flag; a callable default is a factory."""
    metadata = {"flag": Flag(help=help, group=group, **rest)}
    if callable(default):
        return dataclasses.field(default_factory=default, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def flag_name(field_name: str) -> str:
    """`max_model_len` -> `--max-model-len`."""
    return "--" + field_name.replace("_", "-")


def check_settings(config: Any) -> None:
    """Raise ValueError naming the flag, what it got and what it takes, for any setting out of bounds."""
    for field in dataclasses.fields(config):
        flag, value = Flag.of(field), getattr(config, field.name)
        if value is None:
            continue
        name = f"{field.name} ({flag_name(field.name)})"
        if flag.choices and value not in flag.choices:
            raise ValueError(f"{name} must be one of {', '.join(flag.choices)}; got {value!r}")
        if flag.low is not None and value < flag.low:
            raise ValueError(f"{name} must be at least {flag.low:g}, got {value}")
        if flag.high is not None and value > flag.high:
            raise ValueError(f"{name} must be at most {flag.high:g}, got {value}")


@dataclass(slots=True, kw_only=True)
class EngineConfig:
    """Everything that one engine needs to know; vLLM's names where vLLM has one."""

    model: str = setting(
        "",
        "A GGUF file or a Hugging Face directory (config.json, *.safetensors). Empty: the demo model, "
        "SmolLM2-135M-Instruct.",
        "Model",
    )
    tokenizer: str | None = setting(
        None, "A tokenizer.json or the directory that holds one, where it is not the model's own.", "Model"
    )
    dtype: str = setting(
        "auto",
        "Weights as stored (auto; quantised ones run on integer kernels), or dequantised to float32.",
        "Model",
        choices=("auto", "float32"),
    )
    max_model_len: int | None = setting(
        None,
        "Most tokens, prompt and completion, of a request. Default: what the model allows.",
        "Model",
        unit="tokens",
        low=1,
    )
    seed: int = setting(0, "Seed for requests that give none; they draw from it in order.", "Model", low=0)

    gpu_memory_utilization: float | None = setting(
        None,
        "Share of the machine's (or the container's) memory for weights and KV cache together. "
        "Default: a KV cache of 4 GiB, or less where memory is short.",
        "Memory",
        low=0.01,
        high=1.0,
    )
    kv_cache_memory_bytes: int | None = setting(
        None,
        "Size of the KV cache; takes precedence over --gpu-memory-utilization.",
        "Memory",
        unit="bytes",
        low=1,
        aliases=("--kv-cache-memory",),
    )
    num_gpu_blocks_override: int | None = setting(
        None, "Number of KV blocks, whatever memory says.", "Memory", unit="blocks", low=2
    )
    block_size: int = setting(16, "Tokens in a KV block.", "Memory", unit="tokens", low=16, high=16)
    kv_cache_dtype: str = setting(
        "auto", "Type of the KV cache; auto is float16.", "Memory", choices=("auto", "float16", "float32")
    )
    enable_prefix_caching: bool = setting(
        True, "Reuse the KV blocks of a prompt prefix that was seen before.", "Memory"
    )

    max_num_seqs: int = setting(256, "Most sequences in a step.", "Scheduler", low=1, high=4096)
    max_num_batched_tokens: int = setting(
        512,
        "Token budget of a step, prefill and decode together.",
        "Scheduler",
        unit="tokens",
        low=1,
        high=65536,
    )
    enable_chunked_prefill: bool = setting(
        True,
        "Split prompts over steps so that decodes never wait for a long one. Without it a prompt needs a "
        "step of its own and max_num_batched_tokens is raised to max_model_len.",
        "Scheduler",
    )

    backend: str = setting(
        "native",
        "What runs the model: the C++ kernels, or the NumPy reference.",
        "Runtime",
        choices=("native", "reference"),
    )
    threads: int | None = setting(
        None, "Kernel threads. Default: the CPUs that this process may use.", "Runtime", low=1, high=1024
    )

    def __post_init__(self) -> None:
        check_settings(self)
