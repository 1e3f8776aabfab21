"""Llama (Touvron et al., 2023), and what has its shape under its name: SmolLM2, TinyLlama, Yi, Vicuna.

GGUF says "llama" for Mistral too.
"""

from __future__ import annotations

from octavo.formats.fields import Fields
from octavo.formats.gguf import GGUFFile
from octavo.model.families.family import Family
from octavo.model.families.from_gguf import spec_from_gguf
from octavo.model.families.from_hf import spec_from_hf
from octavo.model.families.names import GGUF_INTERLEAVED
from octavo.model.spec import ModelSpec
from octavo.model.uniform import FULL


def _from_hf(config: Fields) -> ModelSpec:
    bias, mlp_bias = config.flag("attention_bias", False), config.flag("mlp_bias", False)
    spec = spec_from_hf(config, "llama").with_attention(qkv_bias=bias, output_bias=bias)
    return spec.with_mlp(bias=mlp_bias)


def _from_gguf(file: GGUFFile) -> ModelSpec:
    spec = spec_from_gguf(file, "llama")
    dim, head_dim = spec.ropes[FULL].dim, spec.attentions[0].head_dim
    if dim != head_dim:
        raise ValueError(f"llama.rope.dimension_count must be the head's {head_dim}, got {dim}")
    return spec


LLAMA = Family(
    hf_architectures=("LlamaForCausalLM",),
    from_hf=_from_hf,
    gguf_architectures=("llama",),
    from_gguf=_from_gguf,
    gguf_weights=GGUF_INTERLEAVED,
)
