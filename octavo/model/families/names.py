"""What checkpoints call the weights of a decoder."""

from __future__ import annotations

from collections.abc import Mapping

HF_NAMES = {
    "embed": "model.embed_tokens",
    "norm": "model.norm",
    "lm_head": "lm_head",
    "layers.attn_norm": "model.layers.{}.input_layernorm",
    "layers.attn.q": "model.layers.{}.self_attn.q_proj",
    "layers.attn.k": "model.layers.{}.self_attn.k_proj",
    "layers.attn.v": "model.layers.{}.self_attn.v_proj",
    "layers.attn.o": "model.layers.{}.self_attn.o_proj",
    "layers.attn.q_norm": "model.layers.{}.self_attn.q_norm",
    "layers.attn.k_norm": "model.layers.{}.self_attn.k_norm",
    "layers.mlp_norm": "model.layers.{}.post_attention_layernorm",
    "layers.mlp.gate": "model.layers.{}.mlp.gate_proj",
    "layers.mlp.up": "model.layers.{}.mlp.up_proj",
    "layers.mlp.down": "model.layers.{}.mlp.down_proj",
}
"""transformers' module names of Llama, which most families share."""

GGUF_NAMES = {
    "embed": "token_embd",
    "norm": "output_norm",
    "lm_head": "output",
    "layers.attn_norm": "blk.{}.attn_norm",
    "layers.attn.q": "blk.{}.attn_q",
    "layers.attn.k": "blk.{}.attn_k",
    "layers.attn.v": "blk.{}.attn_v",
    "layers.attn.o": "blk.{}.attn_output",
    "layers.attn.q_norm": "blk.{}.attn_q_norm",
    "layers.attn.k_norm": "blk.{}.attn_k_norm",
    "layers.mlp_norm": "blk.{}.ffn_norm",
    "layers.mlp.gate": "blk.{}.ffn_gate",
    "layers.mlp.up": "blk.{}.ffn_up",
    "layers.mlp.down": "blk.{}.ffn_down",
}
"""GGUF's standardised tensor names."""


def checkpoint_name(names: Mapping[str, str], weight: str) -> str:
    """What a checkpoint calls the canonical `weight`: `layers.3.attn.q.bias` -> `blk.3.attn_q.bias`."""
    module, _, kind = weight.rpartition(".")
    match module.split(".", 2):
        case ["layers", layer, part]:
            return f"{names['layers.' + part].format(layer)}.{kind}"
    return f"{names[module]}.{kind}"
