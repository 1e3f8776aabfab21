"""Qwen 2 and 2.5 (Yang et al., 2024): Llama with biases on q, k and v, and windows in the later layers."""

from __future__ import annotations

from octavo.formats.fields import Fields
from octavo.formats.gguf import GGUFFile
from octavo.model.families.family import Family
from octavo.model.families.from_gguf import spec_from_gguf
from octavo.model.families.from_hf import layer_windows, spec_from_hf
from octavo.model.spec import ModelSpec


def _from_hf(config: Fields) -> ModelSpec:
    spec = spec_from_hf(config, "qwen2").with_attention(qkv_bias=True)
    return spec.with_windows(layer_windows(config, spec.num_layers))


def _from_gguf(file: GGUFFile) -> ModelSpec:
    return spec_from_gguf(file, "qwen2")


QWEN2 = Family(
    hf_architectures=("Qwen2ForCausalLM",),
    from_hf=_from_hf,
    gguf_architectures=("qwen2",),
    from_gguf=_from_gguf,
)
