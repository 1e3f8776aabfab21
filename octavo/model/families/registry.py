"""The families that octavo has, found by what a checkpoint calls its architecture."""

from __future__ import annotations

from octavo.formats.gguf import GGUFFile
from octavo.formats.safetensors import SafetensorsDirectory
from octavo.model.families.family import Family
from octavo.model.families.llama import LLAMA
from octavo.model.families.mistral import MINISTRAL, MISTRAL
from octavo.model.families.qwen2 import QWEN2
from octavo.model.families.qwen3 import QWEN3

FAMILIES = (LLAMA, MISTRAL, MINISTRAL, QWEN2, QWEN3)

_BY_HF = {name: family for family in FAMILIES for name in family.hf_architectures}
_BY_GGUF = {name: family for family in FAMILIES for name in family.gguf_architectures}


def family_of(checkpoint: GGUFFile | SafetensorsDirectory) -> Family:
    """The family of `checkpoint`. Raises ValueError naming an architecture that octavo does not have."""
    if isinstance(checkpoint, GGUFFile):
        key, value, families = (
            "general.architecture",
            checkpoint.metadata.get("general.architecture"),
            _BY_GGUF,
        )
        names = [value]
    else:
        key, value, families = "architectures", checkpoint.config.get("architectures"), _BY_HF
        names = value if isinstance(value, list) else []
    for name in names:
        if isinstance(name, str) and name in families:
            return families[name]
    raise ValueError(f"{checkpoint.path}: {key} is {str(value)[:80]!r}; octavo has {', '.join(families)}")


def family_of_gguf(architecture: str) -> Family:
    """The family whose GGUF files have this general.architecture, one of octavo's."""
    return _BY_GGUF[architecture]
