"""Models whose layers differ: in heads, widths, windows, ropes, and in the parts that they have."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import transformers
from support.batches import run_schedule
from support.random_llama import random_llama
from support.tiny_models import SIZES, expected_logits, randomise

from octavo.formats.fields import Fields
from octavo.model.decoder import trace
from octavo.model.families import registry
from octavo.model.families.family import Family
from octavo.model.families.from_hf import spec_from_hf, windows_by_type
from octavo.model.layer import LayerSpec
from octavo.model.parts.attention import Attention
from octavo.model.parts.gated_mlp import GatedMLP
from octavo.model.parts.head import Head
from octavo.model.parts.norm import RMSNorm
from octavo.model.rope import LinearScaling, Rope
from octavo.model.spec import ModelSpec
from octavo.runtime.backend import Limits
from octavo.runtime.kv_cache import KVCacheSpec
from octavo.runtime.program import Rows
from octavo.runtime.reference import ReferenceBackend

TOKENS = np.random.default_rng(6).integers(0, 80, 45).tolist()
CHUNKS = [[(0, 17)], [(0, 1)], [(0, 27)]]


def layer(heads: int, width: int, rope: str | None = "full", window: int = 0, **attention) -> LayerSpec:
    mixer = Attention(num_heads=heads, num_kv_heads=2, head_dim=16, rope=rope, window=window, **attention)
    return LayerSpec(mixer=mixer, mlp=GatedMLP(width=width), norm=RMSNorm(1e-5))


MIXED = ModelSpec(
    family="test",
    hidden_size=64,
    vocab_size=80,
    max_position=64,
    layers=(
        layer(4, 96, "near", window=9),
        layer(6, 64, None, qkv_bias=True),
        layer(2, 128, "full", qk_norm=RMSNorm(1e-4)),
        replace(layer(4, 32, "half", window=20, output_bias=True), norm=RMSNorm(1e-3)),
    ),
    norm=RMSNorm(1e-6),
    ropes={
        "near": Rope(dim=16, theta=100.0),
        "full": Rope(dim=16, theta=1e4, scaling=LinearScaling(factor=2.0)),
        "half": Rope(dim=8, theta=1e4),
    },
    head=Head(),
)
WITHOUT = replace(
    MIXED,
    layers=(
        replace(layer(4, 96), mlp=None),
        replace(layer(4, 64), mixer=None),
        layer(4, 32),
        replace(layer(4, 48), mixer=None),
    ),
    ropes={"full": Rope(dim=16, theta=1e4)},
)
LOOPED = replace(
    WITHOUT,
    layers=tuple(replace(layer(4, 96), stored=number % 2) for number in range(4)),
    head=Head(tied=True),
)


def run(spec: ModelSpec, backend, steps=CHUNKS) -> np.ndarray:
    program, model = trace(spec), random_llama(max_model_len=64, spec=spec)
    weights = dict(model.weights)
    if spec.head.tied:
        weights["lm_head.weight"] = weights["embed.weight"]
    kv_cache = KVCacheSpec(program.cache_layers, "float32")
    executable = backend.compile(program, weights, kv_cache, Limits(64, 64, 1, 64, spec.vocab_size))
    (rows,) = run_schedule(executable, [TOKENS], steps)
    return np.stack([rows[position] for position in sorted(rows)])


@pytest.mark.parametrize("spec", [MIXED, WITHOUT, LOOPED], ids=["mixed", "without", "looped"])
def test_backends_agree(spec, backend):
    expected = run(spec, ReferenceBackend(), [[(0, 45)]])
    ours = run(spec, backend)
    assert ours.shape == expected.shape == (45, 80)
    assert np.abs(ours - expected).max() < 1e-5 * np.ptp(expected)


def test_layers_with_other_numbers_of_heads():
    """In steps as in one, by the definition."""
    expected, ours = (run(MIXED, ReferenceBackend(), steps) for steps in ([[(0, 45)]], CHUNKS))
    assert np.abs(ours - expected).max() < 1e-5 * np.ptp(expected)


@pytest.mark.parametrize(
    "change",
    [
        {"rope": "full"},
        {"window": 0},
        {"window": 10},
        {"num_kv_heads": 4},
        {"num_kv_heads": 1},
    ],
    ids=str,
)
def test_every_field_of_a_layer_matters(change):
    """What the first layer says of itself is what its instructions do."""
    first = replace(MIXED.layers[0], mixer=replace(MIXED.layers[0].mixer, **change))
    assert trace(replace(MIXED, layers=(first, *MIXED.layers[1:]))) != trace(MIXED)


def test_instructions_are_those_of_each_layer():
    program = trace(MIXED)
    attentions = [each for each in program.instructions if each.op == "paged_attention"]
    assert [each.attributes["num_heads"] for each in attentions] == [4, 6, 2, 4]
    assert [each.window for each in program.cache_layers] == [9, 0, 0, 20]
    ropes = [each for each in program.instructions if each.op == "rope"]
    assert [each.weights[0] for each in ropes] == ["rope.near", "rope.full", "rope.half"]
    assert [each.attributes["rotary_dim"] for each in ropes] == [16, 16, 8]
    shapes = program.weight_shapes
    assert [shapes[f"layers.{number}.mlp.up.weight"][0] for number in range(4)] == [96, 64, 128, 32]
    norms = [each.attributes["eps"] for each in program.instructions if each.op == "rms_norm"]
    assert norms == [1e-5] * 6 + [1e-3] * 2 + [1e-6]


def test_parts_that_are_left_out():
    program = trace(WITHOUT)
    names = program.weight_shapes.keys()
    assert not any(name.startswith(("layers.0.mlp", "layers.1.attn", "layers.3.attn")) for name in names)
    assert len(program.cache_layers) == 2
    # After the last attention, which is layer 2's, only rows that want logits go on.
    kinds = {
        name: program.buffers[each.output.buffer].rows
        for each in program.instructions
        for name in each.weights
    }
    assert kinds["layers.1.mlp.up.weight"] is Rows.TOKENS
    assert kinds["layers.2.attn.v.weight"] is Rows.TOKENS
    assert kinds["layers.2.attn.o.weight"] is kinds["layers.3.mlp.down.weight"] is Rows.OUTPUTS
    with pytest.raises(ValueError, match="a layer needs a mixer or an mlp"):
        LayerSpec(mixer=None, mlp=None, norm=RMSNorm(1e-5))
    with pytest.raises(ValueError, match="none has attention"):
        replace(WITHOUT, layers=WITHOUT.layers[1:2])


def test_a_loop_stores_its_layers_once_and_caches_each_pass():
    program = trace(LOOPED)
    layers = {name.split(".")[1] for name in program.weight_shapes if name.startswith("layers.")}
    assert (layers, len(program.cache_layers)) == ({"0", "1"}, 4)


class Doubled(ModelSpec):
    """A family may put its model together in a way of its own."""

    __slots__ = ()

    def trace(self, ops):
        """The usual logits, twice over."""
        logits = super().trace(ops)
        return ops.add(logits, logits)


def test_a_family_may_replace_trace():
    fields = {name: getattr(MIXED, name) for name in ModelSpec.__dataclass_fields__}
    reference = ReferenceBackend()
    assert np.array_equal(run(Doubled(**fields), reference), 2 * run(MIXED, reference))


def _smollm3(config: Fields) -> ModelSpec:
    """Layers that no_rope_layers marks with 0 do not rotate; some have a window."""
    spec = spec_from_hf(config, "smollm3")
    rotates = config.get("no_rope_layers")

    def without_rope(number: int, layer: LayerSpec) -> LayerSpec:
        return layer if rotates[number] else replace(layer, mixer=replace(layer.mixer, rope=None))

    windows = windows_by_type(config, spec.num_layers, config.size("sliding_window"))
    return spec.replace_layers(without_rope).with_windows(windows)


def test_layers_without_rope_are_those_of_transformers(tmp_path, monkeypatch, backend, compile_model):
    """SmolLM3 as a family of a few lines."""
    family = Family(hf_architectures=("SmolLM3ForCausalLM",), from_hf=_smollm3)
    monkeypatch.setitem(registry._BY_HF, "SmolLM3ForCausalLM", family)
    config = transformers.SmolLM3Config(
        **SIZES | {"num_hidden_layers": 4, "pad_token_id": 0},
        no_rope_layers=[1, 0, 1, 0],
        use_sliding_window=True,
        sliding_window=9,
        layer_types=["sliding_attention", "full_attention"] * 2,
    )
    model = randomise(transformers.SmolLM3ForCausalLM(config))
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["no_rope_layers"] == [1, 0, 1, 0]
    _, executable = compile_model(tmp_path, backend, "float32")
    (rows,) = run_schedule(executable, [TOKENS], [[(0, 45)]])
    ours, expected = np.stack([rows[position] for position in range(45)]), expected_logits(model, TOKENS)
    assert np.abs(ours - expected).max() < 1e-5 * np.ptp(expected)
