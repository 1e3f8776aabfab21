"""Qwen 3 (Yang et al., 2025): Qwen 2 with an RMSNorm of each query and key head in place of the biases."""

from __future__ import annotations

from dataclasses import replace

from octavo.formats.fields import Fields
from octavo.formats.gguf import GGUFFile
from octavo.model.families.family import Family
from octavo.model.families.from_gguf import spec_from_gguf
from octavo.model.families.from_hf import layer_windows, spec_from_hf
from octavo.model.spec import DecoderSpec


def _from_hf(config: Fields) -> DecoderSpec:
    spec, bias = spec_from_hf(config, "qwen3"), config.flag("attention_bias", False)
    windows = layer_windows(config, spec.num_layers)
    return replace(spec, qk_norm=True, qkv_bias=bias, output_bias=bias, windows=windows)


def _from_gguf(file: GGUFFile) -> DecoderSpec:
    return replace(spec_from_gguf(file, "qwen3"), qk_norm=True)


QWEN3 = Family(
    hf_architectures=("Qwen3ForCausalLM",),
    from_hf=_from_hf,
    gguf_architectures=("qwen3",),
    from_gguf=_from_gguf,
)
