"""Mistral 7B (Jiang et al., 2023): Llama with a sliding window in every layer, where it has one.

Its GGUFs have the architecture "llama". Ministral has windows in the layers that layer_types
says, and is the same otherwise.
"""

from __future__ import annotations

from octavo.formats.fields import Fields
from octavo.model.families.family import Family
from octavo.model.families.from_hf import spec_from_hf, windows_by_type
from octavo.model.spec import ModelSpec


def _from_hf(config: Fields) -> ModelSpec:
    spec = spec_from_hf(config, "mistral")
    window = config.size("sliding_window", 0, low=0)
    return spec.with_attention(window=window)


def _ministral_from_hf(config: Fields) -> ModelSpec:
    spec = _from_hf(config)
    if "layer_types" not in config:
        return spec
    return spec.with_windows(windows_by_type(config, spec.num_layers, spec.windows[0]))


MISTRAL = Family(hf_architectures=("MistralForCausalLM",), from_hf=_from_hf)
MINISTRAL = Family(hf_architectures=("MinistralForCausalLM",), from_hf=_ministral_from_hf)
