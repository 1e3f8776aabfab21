"""Small random transformers models of each family, on disk in the forms that octavo reads."""

from __future__ import annotations

import functools
import os
from pathlib import Path
from unittest.mock import patch

os.environ.setdefault("OMP_NUM_THREADS", "1")

import gguf
import numpy as np
import torch
import transformers
from support.k_quant_writer import quantise
from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

torch.set_num_threads(1)
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()

SIZES = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 160,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "attn_implementation": "eager",
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
YARN_ROPE = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 32,
}

CONFIGS = {
    "llama": lambda: transformers.LlamaConfig(**SIZES),
    "llama-biases": lambda: transformers.LlamaConfig(**SIZES, attention_bias=True, mlp_bias=True),
    "llama3-tied": lambda: transformers.LlamaConfig(
        **SIZES, rope_parameters=dict(LLAMA3_ROPE), tie_word_embeddings=True
    ),
    "qwen2": lambda: transformers.Qwen2Config(**SIZES, tie_word_embeddings=True),
    "qwen2-windows": lambda: transformers.Qwen2Config(
        **SIZES, use_sliding_window=True, sliding_window=9, max_window_layers=1
    ),
    "qwen2-hybrid": lambda: transformers.Qwen2Config(
        **SIZES | {"num_hidden_layers": 5, "max_position_embeddings": 512},
        use_sliding_window=True,
        sliding_window=40,
        layer_types=[f"{kind}_attention" for kind in ("sliding", "sliding", "full", "sliding", "full")],
    ),
    "qwen3": lambda: transformers.Qwen3Config(**SIZES, head_dim=32),
    "qwen3-yarn": lambda: transformers.Qwen3Config(**SIZES, head_dim=16, rope_parameters=dict(YARN_ROPE)),
    "ministral": lambda: transformers.MinistralConfig(
        **SIZES,
        sliding_window=9,
        head_dim=16,
        layer_types=["full_attention", "sliding_attention", "full_attention"],
    ),
    "mistral": lambda: transformers.MistralConfig(**SIZES, sliding_window=19, head_dim=16),
    # Rows of whole 256s, as the K-quants need, and more rows than are taken apart at a time.
    "llama-wide": lambda: transformers.LlamaConfig(
        **SIZES | {"hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 2}
    ),
}


def make_model(name: str) -> transformers.PreTrainedModel:
    """The float32 model `name` of CONFIGS, every parameter random, norms around one."""
    torch.manual_seed(list(CONFIGS).index(name))
    return randomise(transformers.AutoModelForCausalLM.from_config(CONFIGS[name]()))


def randomise(model: transformers.PreTrainedModel) -> transformers.PreTrainedModel:
    """`model` in float32, every parameter random, norms around one."""
    model = model.float().eval()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            std = 1.2 * model.config.hidden_size**-0.5
            parameter.normal_(mean=1.0 if "norm" in key else 0.0, std=std)
    return model


def expected_logits(model: transformers.PreTrainedModel, tokens: list[int]) -> np.ndarray:
    """transformers' float32 logits of every position: `[len(tokens), vocab_size]`."""
    with torch.no_grad():
        return model(torch.tensor([tokens])).logits[0].float().numpy()


def read_gguf(path: Path, **overrides: int) -> transformers.PreTrainedModel:
    """transformers' own float32 reading of a GGUF file: its config and dequantised weights.

    `from_pretrained(gguf_file=...)` is this and needs accelerate besides. `overrides` are config fields that
    transformers does not read from the file.
    """
    # gguf-py takes seconds to parse a vocabulary or to build a map; transformers asks it again and again.
    parse_once = patch.object(gguf, "GGUFReader", functools.cache(gguf.GGUFReader))
    map_once = patch.object(gguf, "get_tensor_name_map", functools.cache(gguf.get_tensor_name_map))
    with parse_once, map_once:
        config = transformers.AutoConfig.from_pretrained(path.parent, gguf_file=str(path), **overrides)
        config._attn_implementation = "eager"
        model = transformers.AutoModelForCausalLM.from_config(config).float().eval()
        read = load_gguf_checkpoint(
            str(path), return_tensors=True, model_to_load=model, torch_dtype=torch.float32
        )
    missing, unexpected = model.load_state_dict(read["tensors"], strict=False)
    assert not unexpected
    assert set(missing) <= {"lm_head.weight"}
    model.tie_weights()
    return model


def write_gguf(
    model: transformers.PreTrainedModel, path: Path, quantisation: gguf.GGMLQuantizationType
) -> None:
    """`model` as llama.cpp's converter writes it: names, metadata, and q and k permuted for Llama."""
    config, arch = model.config, {"mistral": "llama"}.get(model.config.model_type, model.config.model_type)
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer = gguf.GGUFWriter(path, arch)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_rope_dimension_count(head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    rope = config.rope_parameters
    writer.add_rope_freq_base(rope["rope_theta"])
    if rope["rope_type"] == "yarn":
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(rope["factor"])
        writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
    writer.add_eos_token_id(config.eos_token_id)
    writer.add_eot_token_id(5)

    names = gguf.get_tensor_name_map(
        next(key for key, value in gguf.MODEL_ARCH_NAMES.items() if value == arch), config.num_hidden_layers
    )
    for key, value in model.state_dict().items():
        if key == "lm_head.weight" and config.tie_word_embeddings:
            continue
        array = value.numpy()
        if arch == "llama" and (".q_proj." in key or ".k_proj." in key):
            halves = array.reshape(-1, 2, head_dim // 2, *array.shape[1:])
            array = halves.swapaxes(1, 2).reshape(array.shape)
        stem, _, kind = key.rpartition(".")
        kept = gguf.GGMLQuantizationType.F32 if array.ndim == 1 else quantisation
        data = quantise(array, kept)
        writer.add_tensor(f"{names.get_name(stem)}.{kind}", data, raw_dtype=kept)
    if rope["rope_type"] == "llama3":
        writer.add_tensor("rope_freqs.weight", _llama3_divisors(rope, head_dim))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _llama3_divisors(rope: dict, head_dim: int) -> np.ndarray:
    """What llama.cpp's converter stores: unscaled frequencies over scaled ones."""
    config = transformers.LlamaConfig(**SIZES, head_dim=head_dim, rope_parameters=dict(rope))
    scaled, _ = transformers.modeling_rope_utils.ROPE_INIT_FUNCTIONS["llama3"](config)
    plain = rope["rope_theta"] ** (-np.arange(0, head_dim, 2) / head_dim)
    return (plain / scaled.numpy()).astype(np.float32)
