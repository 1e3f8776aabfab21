"""A Llama whose checkpoints are laid out in other ways, with every kind of place that a weight map has."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from octavo.formats.fields import Fields
from octavo.formats.gguf import GGUFFile
from octavo.model.families import registry
from octavo.model.families.family import Family
from octavo.model.families.from_gguf import spec_from_gguf
from octavo.model.families.from_hf import spec_from_hf
from octavo.model.families.names import GGUF, HF
from octavo.model.row_orders import both, by_kv_group, equal_part, pairs_to_halves, query_key_value
from octavo.model.spec import ModelSpec
from octavo.model.weight_map import Stored, WeightMap

QKV, GATE_UP = "model.layers.{}.self_attn.qkv_proj", "model.layers.{}.mlp.gate_up_proj"

FUSED = HF.changed(
    {
        "layers.attn.q": Stored(QKV, rows=both(by_kv_group("q"), pairs_to_halves)),
        "layers.attn.k": Stored(QKV, rows=both(by_kv_group("k"), pairs_to_halves)),
        "layers.attn.v": Stored(QKV, rows=by_kv_group("v")),
        "layers.mlp.gate": Stored(GATE_UP, rows=equal_part(0)),
        "layers.mlp.up": Stored(GATE_UP, rows=equal_part(1)),
    },
    ignored=("vision_tower.*", "model.layers.{}.*"),
)
TURNED = HF.changed(
    {
        "layers.attn.o": replace(HF.modules["layers.attn.o"], transpose=True),
        "layers.mlp.down": replace(HF.modules["layers.mlp.down"], transpose=True),
        "layers.attn_norm": replace(HF.modules["layers.attn_norm"], plus=1.0),
        "norm": replace(HF.modules["norm"], plus=1.0),
    }
)
PAIRS = HF.changed(
    {
        "layers.attn.q": replace(HF.modules["layers.attn.q"], rows=pairs_to_halves),
        "layers.attn.k": replace(HF.modules["layers.attn.k"], rows=pairs_to_halves),
    }
)
GGUF_FUSED = GGUF.changed(
    {f"layers.attn.{part}": Stored("blk.{}.attn_qkv", rows=query_key_value(part)) for part in ("q", "k", "v")}
)


def use(monkeypatch: pytest.MonkeyPatch, places: WeightMap = HF) -> None:
    """Have octavo know the architecture "Toy", with `places` as its map of safetensors."""

    def from_hf(config: Fields) -> ModelSpec:
        bias = config.flag("attention_bias", False)
        return spec_from_hf(config, "toy").with_attention(qkv_bias=bias, output_bias=bias)

    def from_gguf(file: GGUFFile) -> ModelSpec:
        return spec_from_gguf(file, "toy")

    family = Family(
        hf_architectures=("Toy",),
        from_hf=from_hf,
        hf_weights=places,
        gguf_architectures=("toy",),
        from_gguf=from_gguf,
        gguf_weights=GGUF_FUSED,
    )
    monkeypatch.setitem(registry._BY_HF, "Toy", family)
    monkeypatch.setitem(registry._BY_GGUF, "toy", family)


def halves_to_pairs(rows: np.ndarray, head_dim: int) -> np.ndarray:
    """Heads with row `i + head_dim / 2` put behind row `i`."""
    halves = rows.reshape(-1, 2, head_dim // 2, *rows.shape[1:])
    return halves.swapaxes(1, 2).reshape(rows.shape)


def fused(state: dict[str, torch.Tensor], head_dim: int) -> dict[str, torch.Tensor]:
    """A Llama's tensors as `FUSED` has them: for each KV head its queries, keys and values."""
    stored = {}
    for name, value in state.items():
        if ".k_proj." in name or ".v_proj." in name or ".up_proj." in name:
            continue
        if ".q_proj." in name:
            q, k, v = (state[name.replace("q_proj", f"{part}_proj")].numpy() for part in "qkv")
            q, k = halves_to_pairs(q, head_dim), halves_to_pairs(k, head_dim)
            groups = len(k) // head_dim
            parts = [each.reshape(groups, -1, *each.shape[1:]) for each in (q, k, v)]
            together = np.concatenate(parts, axis=1).reshape(-1, *q.shape[1:])
            stored[name.replace("q_proj", "qkv_proj")] = torch.from_numpy(together)
        elif ".gate_proj." in name:
            both_parts = torch.cat([value, state[name.replace("gate_proj", "up_proj")]])
            stored[name.replace("gate_proj", "gate_up_proj")] = both_parts
        else:
            stored[name] = value
    return stored


def turned(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A Llama's tensors as `TURNED` has them."""
    stored = dict(state)
    for name, value in state.items():
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            stored[name] = value.T.contiguous()
        elif name.endswith("input_layernorm.weight") or name == "model.norm.weight":
            stored[name] = value - 1
    return stored


def pairs(state: dict[str, torch.Tensor], head_dim: int) -> dict[str, torch.Tensor]:
    """A Llama's tensors as `PAIRS` has them."""
    return {
        name: torch.from_numpy(halves_to_pairs(value.numpy(), head_dim))
        if ".q_proj." in name or ".k_proj." in name
        else value
        for name, value in state.items()
    }
