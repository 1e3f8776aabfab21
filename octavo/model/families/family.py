"""What a family is: which architectures it goes by and how their checkpoints describe a decoder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from octavo.formats.fields import Fields
from octavo.formats.gguf import GGUFFile
from octavo.formats.safetensors import SafetensorsDirectory
from octavo.model.families.names import GGUF, HF
from octavo.model.spec import ModelSpec
from octavo.model.weight_map import WeightMap


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """A model family. `from_hf` reads config.json, `from_gguf` an opened file; both raise ValueError.

    `hf_weights` and `gguf_weights` say where the two kinds of checkpoints have the weights.
    """

    hf_architectures: tuple[str, ...]
    from_hf: Callable[[Fields], ModelSpec]
    hf_weights: WeightMap = HF
    gguf_architectures: tuple[str, ...] = ()
    from_gguf: Callable[[GGUFFile], ModelSpec] | None = None
    gguf_weights: WeightMap = GGUF

    def weight_map(self, checkpoint: GGUFFile | SafetensorsDirectory) -> WeightMap:
        """Where `checkpoint`, of this family, has its weights."""
        return self.gguf_weights if isinstance(checkpoint, GGUFFile) else self.hf_weights
