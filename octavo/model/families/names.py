"""The weight maps that families share, or begin from."""

from __future__ import annotations

from octavo.model.row_orders import pairs_to_halves
from octavo.model.weight_map import Stored, WeightMap

HF = WeightMap(
    {
        "embed": Stored("model.embed_tokens"),
        "norm": Stored("model.norm"),
        "lm_head": Stored("lm_head"),
        "layers.attn_norm": Stored("model.layers.{}.input_layernorm"),
        "layers.attn.q": Stored("model.layers.{}.self_attn.q_proj"),
        "layers.attn.k": Stored("model.layers.{}.self_attn.k_proj"),
        "layers.attn.v": Stored("model.layers.{}.self_attn.v_proj"),
        "layers.attn.o": Stored("model.layers.{}.self_attn.o_proj"),
        "layers.attn.q_norm": Stored("model.layers.{}.self_attn.q_norm"),
        "layers.attn.k_norm": Stored("model.layers.{}.self_attn.k_norm"),
        "layers.mlp_norm": Stored("model.layers.{}.post_attention_layernorm"),
        "layers.mlp.gate": Stored("model.layers.{}.mlp.gate_proj"),
        "layers.mlp.up": Stored("model.layers.{}.mlp.up_proj"),
        "layers.mlp.down": Stored("model.layers.{}.mlp.down_proj"),
    },
    ignored=("*rotary_emb.inv_freq",),
)
"""transformers' module names of Llama, which most families share. The rope table has what is ignored."""

GGUF = WeightMap(
    {
        "embed": Stored("token_embd"),
        "norm": Stored("output_norm"),
        "lm_head": Stored("output"),
        "layers.attn_norm": Stored("blk.{}.attn_norm"),
        "layers.attn.q": Stored("blk.{}.attn_q"),
        "layers.attn.k": Stored("blk.{}.attn_k"),
        "layers.attn.v": Stored("blk.{}.attn_v"),
        "layers.attn.o": Stored("blk.{}.attn_output"),
        "layers.attn.q_norm": Stored("blk.{}.attn_q_norm"),
        "layers.attn.k_norm": Stored("blk.{}.attn_k_norm"),
        "layers.mlp_norm": Stored("blk.{}.ffn_norm"),
        "layers.mlp.gate": Stored("blk.{}.ffn_gate"),
        "layers.mlp.up": Stored("blk.{}.ffn_up"),
        "layers.mlp.down": Stored("blk.{}.ffn_down"),
    },
    ignored=("rope_freqs.weight",),
)
"""GGUF's standardised tensor names. `octavo.model.families.from_gguf` reads what is ignored."""

GGUF_INTERLEAVED = GGUF.changed(
    {
        "layers.attn.q": Stored("blk.{}.attn_q", rows=pairs_to_halves),
        "layers.attn.k": Stored("blk.{}.attn_k", rows=pairs_to_halves),
    }
)
"""That of the architectures that llama.cpp rotates in neighbouring pairs (LLAMA_ROPE_TYPE_NORM)."""
