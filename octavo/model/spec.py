"""What a decoder-only model is, as data: the one description that every family fills in.

The engine, the planner, `octavo inspect` and `octavo quantize` all read it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from octavo.model.bounds import MAX_COLS, MAX_LAYERS, MAX_POSITIONS, MAX_VOCABULARY, check_size
from octavo.model.layer import LayerSpec
from octavo.model.parts.attention import Attention
from octavo.model.parts.head import Head
from octavo.model.parts.norm import RMSNorm
from octavo.model.parts.place import Place
from octavo.model.rope import Rope
from octavo.runtime.ops import Tracer
from octavo.runtime.program import View


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """An embedding, layers one after the other, a norm and a head.

    `ropes` are the rotary embeddings that layers name. `max_position` is how many positions the model takes.
    Raises ValueError naming the field when the parts do not fit together.

    A family whose model is put together in another way derives a spec with a `trace` of its own.
    """

    family: str
    hidden_size: int
    vocab_size: int
    max_position: int
    layers: tuple[LayerSpec, ...]
    norm: RMSNorm
    ropes: Mapping[str, Rope]
    head: Head

    def __post_init__(self) -> None:
        check_size("num_layers", len(self.layers), MAX_LAYERS)
        check_size("hidden_size", self.hidden_size, MAX_COLS)
        check_size("vocab_size", self.vocab_size, MAX_VOCABULARY)
        check_size("max_position", self.max_position, MAX_POSITIONS)
        if not self.attentions:
            raise ValueError("layers: none has attention, and a decoder needs one that has")
        for each in self.attentions:
            if each.rope is None:
                continue
            if each.rope not in self.ropes:
                raise ValueError(f"rope {each.rope!r:.80} of a layer is not among the model's ropes")
            dim = self.ropes[each.rope].dim
            if dim > each.head_dim:
                raise ValueError(f"rotary dimension {dim} is larger than head_dim {each.head_dim}")

    @property
    def num_layers(self) -> int:
        """Layers that a token passes through."""
        return len(self.layers)

    @property
    def attentions(self) -> tuple[Attention, ...]:
        """The attention of each layer that has one, in order: each keeps keys and values of its own."""
        return tuple(each.mixer for each in self.layers if each.mixer is not None)

    @property
    def windows(self) -> tuple[int, ...]:
        """How many tokens each attention sees, 0 for all."""
        return tuple(each.window for each in self.attentions)

    def trace(self, ops: Tracer) -> View:
        """Token ids to the logits `[R, vocab_size]` of the rows that want them.

        After the last mixer only those rows go on.
        """
        x = ops.embedding("embed.weight", self.vocab_size, self.hidden_size)
        last = max(number for number, each in enumerate(self.layers) if each.mixer is not None)
        for number, layer in enumerate(self.layers):
            place = Place(f"layers.{self.stored_layer(number)}", self.hidden_size, self.ropes)
            x = layer.trace(ops, place, x, gather=number == last)
        return self.head.trace(ops, self.norm.trace(ops, "norm", x), self.vocab_size)

    def stored_layer(self, number: int) -> int:
        """Which layer of the checkpoint has the weights of layer `number`."""
        stored = self.layers[number].stored
        return number if stored is None else stored

    def tables(self, num_positions: int) -> dict[str, NDArray[np.float32]]:
        """The weights that no checkpoint has, by name: the rotary embeddings of `num_positions` positions."""
        return {f"rope.{name}": rope.table(num_positions) for name, rope in self.ropes.items()}

    def replace_layers(self, change: Callable[[int, LayerSpec], LayerSpec]) -> ModelSpec:
        """The same model with `change(number, layer)` in the place of each layer."""
        return replace(self, layers=tuple(change(number, each) for number, each in enumerate(self.layers)))

    def with_attention(self, **changes: Any) -> ModelSpec:
        """The same model with these fields changed in every attention."""

        def change(_: int, layer: LayerSpec) -> LayerSpec:
            return layer if layer.mixer is None else replace(layer, mixer=replace(layer.mixer, **changes))

        return self.replace_layers(change)

    def with_mlp(self, **changes: Any) -> ModelSpec:
        """The same model with these fields changed in every MLP."""

        def change(_: int, layer: LayerSpec) -> LayerSpec:
            return layer if layer.mlp is None else replace(layer, mlp=replace(layer.mlp, **changes))

        return self.replace_layers(change)

    def with_windows(self, windows: tuple[int, ...]) -> ModelSpec:
        """The same model with layer `i` seeing `windows[i]` tokens, 0 for all."""
        if len(windows) != self.num_layers:
            raise ValueError(f"{len(windows)} attention windows for {self.num_layers} layers")

        def change(number: int, layer: LayerSpec) -> LayerSpec:
            if layer.mixer is None:
                return layer
            return replace(layer, mixer=replace(layer.mixer, window=windows[number]))

        return self.replace_layers(change)


def by_layer(values: list[int]) -> int | list[int]:
    """A number of each layer as config.json and GGUF have it: one integer where all are the same."""
    return values[0] if len(set(values)) == 1 else values
