"""Qwen 3 (Yang et al., 2025): Qwen 2 with an RMSNorm of each query and key head in place of the biases."""

from __future__ import annotations

from octavo.formats.fields import Fields
from octavo.formats.gguf import GGUFFile
from octavo.model.families.family import Family
from octavo.model.families.from_gguf import spec_from_gguf
from octavo.model.families.from_hf import layer_windows, spec_from_hf
from octavo.model.spec import ModelSpec


def _from_hf(config: Fields) -> ModelSpec:
    spec, bias = spec_from_hf(config, "qwen3"), config.flag("attention_bias", False)
    spec = spec.with_attention(qk_norm=spec.norm, qkv_bias=bias, output_bias=bias)
    return spec.with_windows(layer_windows(config, spec.num_layers))


def _from_gguf(file: GGUFFile) -> ModelSpec:
    spec = spec_from_gguf(file, "qwen3")
    return spec.with_attention(qk_norm=spec.norm)


QWEN3 = Family(
    hf_architectures=("Qwen3ForCausalLM",),
    from_hf=_from_hf,
    gguf_architectures=("qwen3",),
    from_gguf=_from_gguf,
)
