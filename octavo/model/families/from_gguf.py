"""What the families' GGUF metadata have in common. Source: the keys that llama.cpp reads."""

from __future__ import annotations

from octavo.formats.fields import Fields
from octavo.formats.gguf import GGUFFile
from octavo.model.bounds import MAX_LAYERS
from octavo.model.layer import LayerSpec
from octavo.model.parts.attention import Attention
from octavo.model.parts.gated_mlp import GatedMLP
from octavo.model.parts.head import Head
from octavo.model.parts.norm import RMSNorm
from octavo.model.rope import LinearScaling, Rope, YarnScaling, yarn_attention_factor
from octavo.model.spec import ModelSpec
from octavo.model.uniform import FULL


def spec_from_gguf(file: GGUFFile, family: str) -> ModelSpec:
    """The decoder of a GGUF file: biases and tied embeddings are what its tensors say.

    Heads and widths may differ by layer: their keys are lists then. Raises ValueError naming a key that is
    missing, out of bounds, or asks for what octavo does not have.
    """
    fields = Fields(file.metadata, f"{file.metadata['general.architecture']}.")
    if fields.get("expert_count"):
        raise fields.error("expert_count", "asks for a mixture of experts, which octavo does not have")
    # A model of more has to be refused before there is a record for each of its layers.
    num_layers = fields.size("block_count", high=MAX_LAYERS)
    hidden_size, heads = fields.size("embedding_length"), fields.sizes("attention.head_count", num_layers)
    kv_heads = heads
    if "attention.head_count_kv" in fields:
        kv_heads = fields.sizes("attention.head_count_kv", num_layers)
    widths = fields.sizes("feed_forward_length", num_layers)
    context_length = fields.size("context_length")
    head_dim = fields.size("attention.key_length", hidden_size // heads[0])
    if fields.size("attention.value_length", head_dim) != head_dim:
        raise fields.error("attention.value_length", f"must be the key length, {head_dim}")
    rope = rope_from_gguf(file, fields, head_dim, context_length)
    window = fields.size("attention.sliding_window", 0, low=0)
    norm = RMSNorm(fields.number("attention.layer_norm_rms_epsilon"))

    def layer(number: int) -> LayerSpec:
        return LayerSpec(
            mixer=Attention(
                num_heads=heads[number],
                num_kv_heads=kv_heads[number],
                head_dim=head_dim,
                rope=FULL,
                window=window,
                qkv_bias="blk.0.attn_q.bias" in file.tensors,
                output_bias="blk.0.attn_output.bias" in file.tensors,
            ),
            mlp=GatedMLP(width=widths[number], bias="blk.0.ffn_gate.bias" in file.tensors),
            norm=norm,
        )

    return ModelSpec(
        family=family,
        hidden_size=hidden_size,
        vocab_size=file.tensor("token_embd.weight").shape[0],
        max_position=rope.max_position(context_length),
        layers=tuple(map(layer, range(num_layers))),
        norm=norm,
        ropes={FULL: rope},
        head=Head(tied="output.weight" not in file.tensors),
    )


def rope_from_gguf(file: GGUFFile, fields: Fields, head_dim: int, context_length: int) -> Rope:
    """The rotary embedding of a GGUF file: its rope.* keys, and the divisors in rope_freqs.weight."""
    divisors: tuple[float, ...] = ()
    if "rope_freqs.weight" in file.tensors:
        divisors = tuple(file.tensor("rope_freqs.weight").to_float32().ravel().tolist())
    scaling: LinearScaling | YarnScaling | None = None
    factor = fields.number("rope.scaling.factor", fields.number("rope.scale_linear", 1.0))
    match fields.text("rope.scaling.type", "linear" if factor != 1.0 else "none"):
        case "none":
            pass
        case "linear":
            scaling = LinearScaling(factor=factor)
        case "yarn":
            scaling = _yarn(fields, factor, context_length)
        case other:
            raise fields.error("rope.scaling.type", f"is {other!r:.80}; octavo has none, linear and yarn")
    theta, dim = fields.number("rope.freq_base", 10_000.0), fields.size("rope.dimension_count", head_dim)
    return Rope(dim=dim, theta=theta, scaling=scaling, divisors=divisors)


def _yarn(fields: Fields, factor: float, context_length: int) -> YarnScaling:
    if fields.number("rope.scaling.yarn_ext_factor", 1.0) != 1.0:
        raise fields.error("rope.scaling.yarn_ext_factor", "must be 1")
    # llama.cpp's multiplier is DeepSeek's mscale_all_dim, with an mscale of 1; writers put 0 for none.
    key = "rope.scaling.yarn_log_multiplier"
    all_dim = fields.number(key) if fields.get(key) else 0.0
    attention_factor = fields.number(
        "rope.scaling.yarn_attn_factor", yarn_attention_factor(factor, mscale_all_dim=all_dim)
    )
    return YarnScaling(
        factor=factor,
        original_max_position=fields.size("rope.scaling.original_context_length", context_length),
        attention_factor=attention_factor * fields.number("rope.scaling.attn_factor", 1.0),
        beta_fast=fields.number("rope.scaling.yarn_beta_fast", 32.0),
        beta_slow=fields.number("rope.scaling.yarn_beta_slow", 1.0),
    )
