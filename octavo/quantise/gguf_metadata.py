"""The metadata of a GGUF file that is written: copied from one, or made from a Hugging Face directory.

Keys: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, and llama.cpp's convert_hf_to_gguf.py.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import tokenizers

from octavo.formats.gguf import GGUFFile
from octavo.formats.groups import Floats
from octavo.model.load import ModelInfo
from octavo.model.rope import LinearScaling, Llama3Scaling, Rope, YarnScaling, yarn_attention_factor
from octavo.quantise.described import described as described_fields
from octavo.quantise.gguf_output import encode_pair
from octavo.tokenizer.gguf import CONTROL, NORMAL, USER_DEFINED
from octavo.tokenizer.pretokenizers import PRE_TOKENIZATIONS
from octavo.tokenizer.tokenizer import Tokenizer

ARCHITECTURES = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}
"""What GGUF calls the families that octavo can describe to it."""

_UNUSED = 5
_QUANTISATION_VERSION = 2


def copied(file: GGUFFile, file_type: int) -> list[bytes]:
    """The pairs of `file`, byte for byte but for those that say how it is quantised and split."""
    own = ("general.file_type", "general.quantization_version", "general.alignment")
    kept = [key for key in file.metadata if key not in own and not key.startswith("split.")]
    return [*(file.raw_pair(key) for key in kept), *_own(file_type)]


def described(
    info: ModelInfo, tokenizer: Tokenizer, name: str, file_type: int
) -> tuple[list[bytes], dict[str, Floats]]:
    """The pairs of a model of a Hugging Face directory, and the tensor that holds what scales its rope.

    Raises ValueError for a family, an attention window or a tokenizer that octavo cannot describe.
    """
    spec = info.spec
    if spec.family not in ARCHITECTURES:
        raise ValueError(f"octavo writes no GGUF of a {spec.family} model; write safetensors")
    if len(set(spec.windows)) > 1:
        raise ValueError("GGUF has no place for attention windows that differ by layer; write safetensors")
    arch, model = ARCHITECTURES[spec.family], described_fields(spec)
    attention, rope = model.attention, model.rope
    pairs: dict[str, Any] = {
        "general.architecture": arch,
        "general.name": name,
        f"{arch}.block_count": spec.num_layers,
        f"{arch}.context_length": model.context_length,
        f"{arch}.embedding_length": spec.hidden_size,
        f"{arch}.feed_forward_length": model.mlp.width,
        f"{arch}.attention.head_count": attention.num_heads,
        f"{arch}.attention.head_count_kv": attention.num_kv_heads,
        f"{arch}.attention.key_length": attention.head_dim,
        f"{arch}.attention.value_length": attention.head_dim,
        f"{arch}.attention.layer_norm_rms_epsilon": float(model.norm_eps),
        f"{arch}.rope.dimension_count": rope.dim,
        f"{arch}.rope.freq_base": float(rope.theta),
        f"{arch}.vocab_size": spec.vocab_size,
    }
    if spec.windows[0]:
        pairs[f"{arch}.attention.sliding_window"] = spec.windows[0]
    scaling, vectors = _rope(rope, arch)
    pairs |= scaling | _tokenizer(tokenizer, spec.vocab_size, info.eos_token_ids)
    return [*(encode_pair(key, value) for key, value in pairs.items()), *_own(file_type)], vectors


def _own(file_type: int) -> list[bytes]:
    return [
        encode_pair("general.file_type", file_type),
        encode_pair("general.quantization_version", _QUANTISATION_VERSION),
    ]


def _rope(rope: Rope, arch: str) -> tuple[dict[str, Any], dict[str, Floats]]:
    key = f"{arch}.rope.scaling"
    match rope.scaling:
        case None:
            return {}, {}
        case LinearScaling(factor=factor):
            return {f"{key}.type": "linear", f"{key}.factor": float(factor)}, {}
        case Llama3Scaling():
            plain = Rope(dim=rope.dim, theta=rope.theta).frequencies()
            return {}, {"rope_freqs.weight": (plain / rope.frequencies()).astype(np.float32)}
        case YarnScaling() as yarn:
            if not yarn.truncate:
                raise ValueError("GGUF has no place for YaRN without truncation; write safetensors")
            usual = yarn_attention_factor(yarn.factor)
            return {
                f"{key}.type": "yarn",
                f"{key}.factor": float(yarn.factor),
                f"{key}.original_context_length": yarn.original_max_position,
                f"{key}.yarn_beta_fast": float(yarn.beta_fast),
                f"{key}.yarn_beta_slow": float(yarn.beta_slow),
                f"{key}.attn_factor": float(yarn.attention_factor / usual),
            }, {}


def _tokenizer(tokenizer: Tokenizer, vocab_size: int, eos_token_ids: list[int]) -> dict[str, Any]:
    backend = json.loads(tokenizer.to_json())
    model = backend["model"]
    if model["type"] != "BPE" or model.get("byte_fallback"):
        raise ValueError(
            "octavo writes only byte-level BPE tokenizers to GGUF, and this is not one; write safetensors"
        )
    added = {each["id"]: each for each in backend["added_tokens"]}
    tokens, types = [], []
    for token_id in range(vocab_size):
        token = tokenizer.token(token_id)
        tokens.append(f"[PAD{token_id}]" if token is None else token)
        kind = (CONTROL if added[token_id]["special"] else USER_DEFINED) if token_id in added else NORMAL
        types.append(_UNUSED if token is None else kind)
    merges = [each if isinstance(each, str) else " ".join(each) for each in model["merges"]]
    pairs: dict[str, Any] = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": _pre_tokenization(backend),
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.merges": merges,
    }
    named = {"bos": "bos_token", "eos": "eos_token", "unknown": "unk_token", "padding": "pad_token"}
    for key, name in named.items():
        named_id = tokenizer.token_id(tokenizer.special_tokens.get(name))
        if named_id is not None:
            pairs[f"tokenizer.ggml.{key}_token_id"] = named_id
    for key, token_id in zip(("eos", "eot", "eom"), eos_token_ids, strict=False):
        pairs[f"tokenizer.ggml.{key}_token_id"] = token_id
    around = tokenizer.encode("")
    pairs["tokenizer.ggml.add_bos_token"] = around[:1] == [tokenizer.bos_token_id]
    if tokenizer.chat_template is not None:
        pairs["tokenizer.chat_template"] = tokenizer.chat_template
    return pairs


def _pre_tokenization(backend: dict[str, Any]) -> str:
    """The name of the pre-tokenizer of a tokenizer.json."""
    found = _steps(backend["pre_tokenizer"])
    for name, scheme in PRE_TOKENIZATIONS.items():
        known = tokenizers.Tokenizer(tokenizers.models.BPE())
        known.pre_tokenizer = scheme.build()
        same = _steps(json.loads(known.to_str())["pre_tokenizer"]) == found
        if same and scheme.nfc == ("NFC" in json.dumps(backend["normalizer"])):
            return name
    raise ValueError(
        "GGUF has no name for this tokenizer's pre-tokenizer that octavo knows; write safetensors"
    )


def _steps(pre_tokenizer: dict[str, Any] | None) -> list[dict[str, Any]]:
    """A pre-tokenizer's steps without what has no bearing on the tokens."""
    each = pre_tokenizer or {"type": "none"}
    steps = each["pretokenizers"] if each["type"] == "Sequence" else [each]
    return [{key: value for key, value in step.items() if key != "trim_offsets"} for step in steps]
