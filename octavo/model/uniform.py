"""The spec of a decoder whose layers are alike: Llama's, from which most families begin."""

from __future__ import annotations

from octavo.model.layer import LayerSpec
from octavo.model.parts.attention import Attention
from octavo.model.parts.gated_mlp import GatedMLP
from octavo.model.parts.head import Head
from octavo.model.parts.norm import RMSNorm
from octavo.model.rope import Rope
from octavo.model.spec import ModelSpec

FULL = "full"
"""What such a model calls its one rotary embedding."""


def uniform_decoder(
    *,
    family: str,
    num_layers: int,
    hidden_size: int,
    num_heads: int,
    num_kv_heads: int,
    head_dim: int,
    intermediate_size: int,
    vocab_size: int,
    max_position: int,
    norm_eps: float,
    rope: Rope,
    activation: str = "silu",
    tie_embeddings: bool = False,
) -> ModelSpec:
    """Llama of these sizes, without biases and windows. Raises ValueError naming one that does not fit."""
    norm = RMSNorm(norm_eps)
    layer = LayerSpec(
        mixer=Attention(num_heads=num_heads, num_kv_heads=num_kv_heads, head_dim=head_dim, rope=FULL),
        mlp=GatedMLP(width=intermediate_size, activation=activation),
        norm=norm,
    )
    return ModelSpec(
        family=family,
        hidden_size=hidden_size,
        vocab_size=vocab_size,
        max_position=max_position,
        layers=(layer,) * num_layers,
        norm=norm,
        ropes={FULL: rope},
        head=Head(tied=tie_embeddings),
    )
