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
        if flag.low is not None and flag.low == flag.high != value:
            raise ValueError(f"{name} must be {flag.low:g}, got {value}")
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
        "Type of the weights: as stored (auto; quantised weights run on integer kernels), or "
        "dequantised to float32. vLLM's half, float16 and bfloat16 mean auto, and float means "
        "float32.",
        "Model",
        choices=("auto", "float32", "half", "float16", "bfloat16", "float"),
    )
    quantization: str | None = setting(
        None,
        "How a Hugging Face checkpoint is quantised. Default: what its config.json says. A value "
        "given here is checked against the config, or takes its place where it says nothing. "
        "int8, int4, fp8 and awq-like round a checkpoint of 16 or 32 bits, GGUF too, while it is "
        "loaded. awq-like is int4 with scales that are calibrated on a short text.",
        "Model",
        choices=(
            "int8",
            "int4",
            "fp8",
            "awq-like",
            "awq",
            "gptq",
            "compressed-tensors",
            "bitsandbytes",
            "mxfp4",
            "torchao",
            "gguf",
        ),
    )
    max_model_len: int | None = setting(
        None,
        "Most tokens, prompt and completion, of a request. Default: what the model allows.",
        "Model",
        unit="tokens",
        low=1,
    )
    generation_config: str = setting(
        "auto",
        "Where the sampling defaults for requests come from: the model (auto: its "
        "generation_config.json, or its GGUF file), nowhere (vllm), or a directory with a "
        "generation_config.json.",
        "Model",
    )
    override_generation_config: dict[str, Any] | None = setting(  # noqa: RUF009 (a field, not a default)
        None,
        "Sampling defaults as a JSON object, in place of those of --generation-config: "
        "temperature, top_p, top_k, min_p, repetition_penalty, and max_new_tokens, which is a "
        "limit for every request.",
        "Model",
    )
    seed: int = setting(
        0, "Seed from which requests without a seed of their own get one, in order.", "Model", low=0
    )

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
        None, "Number of KV blocks, whatever memory there is.", "Memory", unit="blocks", low=2
    )
    block_size: int = setting(16, "Tokens in a KV block.", "Memory", unit="tokens", low=16, high=16)
    kv_cache_dtype: str = setting(
        "auto",
        "Type of the KV cache. auto is int16 (float16 where head_dim is odd). int16 is at least "
        "as exact as float16, and faster. int8 and fp8 (e4m3) take half of its memory. The "
        "integers have a scale for each head of a token.",
        "Memory",
        choices=("auto", "int16", "float16", "bfloat16", "float32", "int8", "fp8", "f16", "bf16", "fp8_e4m3"),
    )
    enable_prefix_caching: bool = setting(
        True, "Reuse the KV cache of a prompt prefix that was seen before, exact to the token.", "Memory"
    )
    prefix_caching_hash_algo: str = setting(
        "sha256",
        "Hash that names the blocks of the prefix cache. With both nobody can make two prompts "
        "with the same name.",
        "Memory",
        choices=("sha256", "blake2b"),
    )

    kv_offload_gb: float = setting(
        0.0,
        "Host memory for KV blocks that were evicted from the KV cache. They come back where that "
        "is faster than computing them.",
        "Memory",
        unit="GiB",
        low=0.0,
        aliases=("--kv-offloading-size",),
    )
    kv_offload_dir: str | None = setting(
        None,
        "Directory for such blocks; the next start finds them again. Whoever can read it can guess prompts.",
        "Memory",
    )
    kv_offload_disk_gb: float = setting(
        16.0,
        "Most disk space that --kv-offload-dir may take. The files used longest ago are removed first.",
        "Memory",
        unit="GiB",
        low=0.0,
    )
    kv_cache_metrics: bool = setting(
        False, "Measure how long KV blocks keep their content, as vllm:kv_block_... at /metrics.", "Memory"
    )
    kv_cache_metrics_sample: float = setting(
        0.01, "Share of the blocks that --kv-cache-metrics measures.", "Memory", low=1e-4, high=1.0
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
    max_num_partial_prefills: int = setting(
        2, "Most prompts that are computed in part at the same time.", "Scheduler", low=1
    )
    max_long_partial_prefills: int = setting(
        1,
        "Most long prompts among --max-num-partial-prefills. While that many are computed, "
        "shorter prompts go before other long ones.",
        "Scheduler",
        low=1,
    )
    long_prefill_token_threshold: int = setting(
        0,
        "A prompt with more tokens to compute than this is long, and gets no more than this in a "
        "step. With 0 a prompt is long when it does not fit in a step, and its part of a step is "
        "bounded by time: sequences that decode keep more than half their speed.",
        "Scheduler",
        unit="tokens",
        low=0,
    )
    scheduling_policy: str = setting(
        "fcfs",
        "Who is served first: the request that came first (fcfs), the one with the lower priority "
        "number (priority), or whoever has had the fewest tokens (fair). fair counts by API key "
        "where the server has several, else by the request's user.",
        "Scheduler",
        choices=("fcfs", "priority", "fair"),
    )
    priority_aging: float = setting(
        60.0,
        "Seconds of waiting that make up for one step of priority, so that nothing waits for "
        "ever. With 0 priorities are strict.",
        "Scheduler",
        low=0.0,
    )
    async_scheduling: bool | None = setting(
        None,
        "Plan the next step while one runs, where all of it is known except its tokens. Not with "
        "a KV offload. Default: on where --threads leaves a CPU of this process free; without one "
        "it only costs time.",
        "Scheduler",
    )
    target_ttft: float | None = setting(
        None,
        "Time to the first token to aim for, in milliseconds. Prompts get more of each step when they need "
        "it, and the server refuses requests that could not make it (429, with Retry-After).",
        "Scheduler",
        low=1.0,
    )
    target_itl: float | None = setting(
        None,
        "Time between two tokens of a stream to aim for, in milliseconds. Prompts get what "
        "decoding leaves of that time, and no more sequences run than can decode in it.",
        "Scheduler",
        low=0.1,
    )

    structured_outputs_config: dict[str, Any] | None = setting(  # noqa: RUF009 (a field, not a default)
        None,
        "Settings of structured outputs, as a JSON object or a field at a time "
        "(--structured-outputs-config.backend guidance). The fields are vLLM's: backend (auto or "
        "guidance, both llguidance), disable_any_whitespace, disable_additional_properties.",
        "Structured outputs",
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

    packed_cache_gib: float = setting(
        32.0,
        "Disk space for packed weights, below the cache directory (OCTAVO_CACHE). A model is "
        "packed for the kernels once, and later starts map that file. The files used longest ago "
        "make room. With 0 none are kept.",
        "Runtime",
        unit="GiB",
        low=0.0,
    )

    def __post_init__(self) -> None:
        check_settings(self)
        if self.dtype not in ("auto", "float32"):
            self.dtype = "float32" if self.dtype == "float" else "auto"
        if self.structured_outputs_config is not None:
            from octavo.structured.config import structured_outputs_config  # msgspec: slow for --help

            structured_outputs_config(self.structured_outputs_config)
        if not self.enable_prefix_caching and (self.kv_offload_gb or self.kv_offload_dir is not None):
            raise ValueError(
                "kv_offload_gb (--kv-offload-gb) and kv_offload_dir (--kv-offload-dir) keep what falls out "
                "of the prefix cache: they need enable_prefix_caching (--enable-prefix-caching)"
            )
        if self.async_scheduling and (self.kv_offload_gb or self.kv_offload_dir is not None):
            raise ValueError(
                "async_scheduling (--async-scheduling) does not go with kv_offload_gb (--kv-offload-gb) or "
                "kv_offload_dir (--kv-offload-dir), which read blocks between two steps; leave it out"
            )
        if self.max_long_partial_prefills > self.max_num_partial_prefills:
            raise ValueError(
                "max_long_partial_prefills (--max-long-partial-prefills) must be at most "
                f"max_num_partial_prefills={self.max_num_partial_prefills}, "
                f"got {self.max_long_partial_prefills}"
            )
