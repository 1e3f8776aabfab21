"""Llama (Touvron et al., 2023), and what has its shape under its name: SmolLM2, TinyLlama, Yi, Vicuna.

GGUF says "llama" for Mistral too.
"""

from __future__ import annotations

from dataclasses import replace

from octavo.formats.fields import Fields
from octavo.formats.gguf import GGUFFile
from octavo.model.families.family import Family
from octavo.model.families.from_gguf import spec_from_gguf
from octavo.model.families.from_hf import spec_from_hf
from octavo.model.spec import DecoderSpec


def _from_hf(config: Fields) -> DecoderSpec:
    bias, mlp_bias = config.flag("attention_bias", False), config.flag("mlp_bias", False)
    return replace(spec_from_hf(config, "llama"), qkv_bias=bias, output_bias=bias, mlp_bias=mlp_bias)


def _from_gguf(file: GGUFFile) -> DecoderSpec:
    spec = spec_from_gguf(file, "llama")
    if spec.rope.dim != spec.head_dim:
        raise ValueError(
            f"llama.rope.dimension_count must be the head's {spec.head_dim}, got {spec.rope.dim}"
        )
    return spec


LLAMA = Family(
    hf_architectures=("LlamaForCausalLM",),
    from_hf=_from_hf,
    gguf_architectures=("llama",),
    from_gguf=_from_gguf,
    gguf_interleaved=True,
)
