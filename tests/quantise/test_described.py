"""What config.json and GGUF can say of a model, and what they have no fields for."""

from __future__ import annotations

from dataclasses import replace

import pytest
from support.random_llama import SPEC, llama_spec

from octavo.model.rope import LinearScaling, Rope
from octavo.quantise.described import described


def test_layers_may_differ_in_their_windows_alone():
    found = described(SPEC)
    assert SPEC.windows == (0, 24)
    assert (found.attention, found.mlp) == (SPEC.attentions[0], SPEC.layers[0].mlp)
    assert (found.norm_eps, found.rope, found.context_length) == (1e-5, SPEC.ropes["full"], 256)
    scaled = llama_spec(rope=Rope(dim=16, theta=1e4, scaling=LinearScaling(factor=4.0)))
    assert described(scaled).context_length == 64


@pytest.mark.parametrize(
    "change",
    [
        lambda number, layer: replace(layer, mlp=replace(layer.mlp, width=32 * (1 + number))),
        lambda number, layer: replace(layer, mixer=replace(layer.mixer, num_heads=2 * (1 + number))),
        lambda number, layer: replace(layer, mlp=None),
        lambda number, layer: replace(layer, stored=0),
        lambda number, layer: replace(layer, norm=replace(layer.norm, eps=1e-3)),
    ],
    ids=["widths", "heads", "no mlp", "a loop", "norms"],
)
def test_other_differences_have_no_place(change):
    with pytest.raises(ValueError, match="cannot describe a llama model"):
        described(SPEC.replace_layers(change))


def test_a_second_rope_has_no_place():
    ropes = {**SPEC.ropes, "window": Rope(dim=16, theta=1e3)}
    with pytest.raises(ValueError, match="cannot describe a llama model"):
        described(replace(SPEC, ropes=ropes))
