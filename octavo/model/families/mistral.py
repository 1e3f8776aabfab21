"""Mistral 7B (Jiang et al., 2023): Llama with a sliding window in every layer, where it has one.

Its GGUFs have the architecture "llama".
"""

from __future__ import annotations

from dataclasses import replace

from octavo.model.families.family import Family
from octavo.model.families.from_hf import spec_from_hf
from octavo.model.fields import Fields
from octavo.model.spec import DecoderSpec


def _from_hf(config: Fields) -> DecoderSpec:
    spec = spec_from_hf(config, "mistral")
    window = config.size("sliding_window", 0, low=0)
    return replace(spec, windows=(window,) * spec.num_layers)


MISTRAL = Family(hf_architectures=("MistralForCausalLM",), from_hf=_from_hf)
