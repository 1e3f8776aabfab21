"""What a model is in the fields that config.json and GGUF have for one whose layers are alike."""

from __future__ import annotations

from dataclasses import dataclass, replace

from octavo.model.parts.attention import Attention
from octavo.model.parts.gated_mlp import GatedMLP
from octavo.model.rope import LinearScaling, Rope
from octavo.model.spec import ModelSpec


@dataclass(frozen=True, slots=True)
class Described:
    """The parts that all layers have, windows aside, and the length that the description states."""

    attention: Attention
    mlp: GatedMLP
    norm_eps: float
    rope: Rope
    context_length: int


def described(spec: ModelSpec) -> Described:
    """Raises ValueError for a spec whose layers differ in more than their windows."""
    kinds = {
        replace(each, stored=None, mixer=each.mixer and replace(each.mixer, window=0)) for each in spec.layers
    }
    (layer, *others), (rope, *other_ropes) = kinds, spec.ropes.values()
    looped = any(spec.stored_layer(number) != number for number in range(spec.num_layers))
    if others or other_ropes or looped or layer.norm != spec.norm or not (layer.mixer and layer.mlp):
        raise ValueError(
            f"octavo cannot describe a {spec.family} model whose layers differ; quantise it to its own format"
        )
    scaling, length = rope.scaling, spec.max_position
    if isinstance(scaling, LinearScaling):  # Rope.max_position multiplies what is described
        length = round(length / scaling.factor)
    return Described(layer.mixer, layer.mlp, spec.norm.eps, rope, length)
