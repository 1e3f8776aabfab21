"""The files around the weights of a Hugging Face directory: copied from one, or made from a GGUF file."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from octavo.model.load import ModelInfo
from octavo.model.rope import LinearScaling, Rope, YarnScaling
from octavo.quantise.described import described
from octavo.quantise.safetensors_output import write_json
from octavo.tokenizer.tokenizer import Tokenizer

_ARCHITECTURES = {"llama": "Llama", "mistral": "Mistral", "qwen2": "Qwen2", "qwen3": "Qwen3"}
_COPIED = {".json", ".txt", ".jinja", ".model", ".md"}
_OWN = {"config.json", "model.safetensors.index.json"}


def copy_files(source: Path, target: Path) -> None:
    """Copy the tokenizer's files, the generation config and the licence; weights and config.json are ours."""
    for file in sorted(source.iterdir()):
        text = file.suffix in _COPIED or file.name.upper().startswith(("LICENSE", "NOTICE"))
        if file.is_file() and text and file.name not in _OWN and not file.name.startswith("quant"):
            shutil.copyfile(file, target / file.name)


def write_files(info: ModelInfo, tokenizer: Tokenizer, target: Path) -> None:
    """Write tokenizer.json, tokenizer_config.json and generation_config.json."""
    (target / "tokenizer.json").write_text(tokenizer.to_json(), encoding="utf-8")
    settings: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", **tokenizer.special_tokens}
    if tokenizer.chat_template is not None:
        settings["chat_template"] = tokenizer.chat_template
    write_json(target / "tokenizer_config.json", settings)
    generation = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": info.eos_token_ids}
    write_json(target / "generation_config.json", {k: v for k, v in generation.items() if v is not None})


def config_of(info: ModelInfo, tokenizer: Tokenizer, dtype: str) -> dict[str, Any]:
    """The config.json of a model that a GGUF file describes.

    Raises ValueError for what transformers' config of the family has no field for.
    """
    spec = info.spec
    family = "mistral" if spec.family == "llama" and any(spec.windows) else spec.family
    if family not in _ARCHITECTURES:
        raise ValueError(f"octavo writes no config.json of a {family} model from a GGUF file; write GGUF")
    model = described(spec)
    attention, rope = model.attention, model.rope
    config: dict[str, Any] = {
        "architectures": [f"{_ARCHITECTURES[family]}ForCausalLM"],
        "model_type": family,
        "hidden_act": model.mlp.activation,
        "hidden_size": spec.hidden_size,
        "intermediate_size": model.mlp.width,
        "num_hidden_layers": spec.num_layers,
        "num_attention_heads": attention.num_heads,
        "num_key_value_heads": attention.num_kv_heads,
        "head_dim": attention.head_dim,
        "vocab_size": spec.vocab_size,
        "max_position_embeddings": model.context_length,
        "rms_norm_eps": model.norm_eps,
        "rope_theta": rope.theta,
        "tie_word_embeddings": spec.head.tied,
        "torch_dtype": dtype,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": info.eos_token_ids[:1][0] if info.eos_token_ids else None,
    }
    if (scaling := _rope_scaling(rope)) is not None:
        config["rope_scaling"] = scaling
    if any(spec.windows):
        config["sliding_window"] = spec.windows[0]
    if family == "llama":
        config |= {"attention_bias": attention.qkv_bias, "mlp_bias": model.mlp.bias}
    elif family == "qwen3":
        config["attention_bias"] = attention.qkv_bias
    return config


def _rope_scaling(rope: Rope) -> dict[str, Any] | None:
    if rope.divisors:
        raise ValueError(
            "a rope_freqs.weight says how this model's rope is scaled, for which config.json has no field; "
            "write GGUF"
        )
    match rope.scaling:
        case None:
            return None
        case LinearScaling(factor=factor):
            return {"rope_type": "linear", "factor": factor}
        case YarnScaling() as yarn:
            return {
                "rope_type": "yarn",
                "factor": yarn.factor,
                "original_max_position_embeddings": yarn.original_max_position,
                "attention_factor": yarn.attention_factor,
                "beta_fast": yarn.beta_fast,
                "beta_slow": yarn.beta_slow,
                "truncate": yarn.truncate,
            }
    raise ValueError("octavo does not write this scaling of the rope to config.json; write GGUF")
