"""The one generic decoder: a spec, traced into a Program."""

from __future__ import annotations

from octavo.model.spec import DecoderSpec
from octavo.runtime.kv_cache import PagedKV
from octavo.runtime.ops import Tracer
from octavo.runtime.program import Program, View


def trace(spec: DecoderSpec) -> Program:
    """The Program of `spec`: token ids to the logits `[R, vocab_size]` of the rows that want them.

    It reads the weights of `octavo.model.weights` and the rope table as weight "rope". After the last
    attention only the rows that want logits go on, since nothing reads the others.
    """
    ops = Tracer()
    x = ops.embedding("embed.weight", spec.vocab_size, spec.hidden_size)
    for layer in range(spec.num_layers):
        attended = _attend(
            ops, spec, layer, ops.rms_norm(x, f"layers.{layer}.attn_norm.weight", spec.norm_eps)
        )
        if layer == spec.num_layers - 1:
            attended, x = ops.gather_rows(attended), ops.gather_rows(x)
        x = _linear(ops, attended, layer, {"attn.o": spec.hidden_size}, bias=spec.output_bias, residual=x)
        normed = ops.rms_norm(x, f"layers.{layer}.mlp_norm.weight", spec.norm_eps)
        wide = spec.intermediate_size
        gate_up = _linear(ops, normed, layer, {"mlp.gate": wide, "mlp.up": wide}, bias=spec.mlp_bias)
        hidden = ops.silu_mul(gate_up.columns(0, wide), gate_up.columns(wide, wide))
        x = _linear(ops, hidden, layer, {"mlp.down": spec.hidden_size}, bias=spec.mlp_bias, residual=x)
    x = ops.rms_norm(x, "norm.weight", spec.norm_eps)
    return ops.finish(ops.linear(x, [("lm_head.weight", spec.vocab_size)]))


def _attend(ops: Tracer, spec: DecoderSpec, layer: int, x: View) -> View:
    """The heads of `layer` side by side, `[T, query_cols]`, before the output linear."""
    widths = {"attn.q": spec.query_cols, "attn.k": spec.kv_cols, "attn.v": spec.kv_cols}
    qkv = _linear(ops, x, layer, widths, bias=spec.qkv_bias)
    q = qkv.columns(0, spec.query_cols)
    k = qkv.columns(spec.query_cols, spec.kv_cols)
    v = qkv.columns(spec.query_cols + spec.kv_cols, spec.kv_cols)
    if spec.qk_norm:
        ops.head_rms_norm(q, f"layers.{layer}.attn.q_norm.weight", spec.head_dim, spec.norm_eps)
        ops.head_rms_norm(k, f"layers.{layer}.attn.k_norm.weight", spec.head_dim, spec.norm_eps)
    # q and k lie side by side and rotate alike, head by head.
    ops.rope(qkv.columns(0, spec.query_cols + spec.kv_cols), "rope", spec.head_dim, spec.rope.dim)
    cache = PagedKV(
        num_kv_heads=spec.num_kv_heads,
        key_dim=spec.head_dim,
        value_dim=spec.head_dim,
        window=spec.windows[layer],
    )
    return ops.paged_attention(q, k, v, num_heads=spec.num_heads, scale=spec.head_dim**-0.5, cache=cache)


def _linear(
    ops: Tracer, x: View, layer: int, widths: dict[str, int], *, bias: bool, residual: View | None = None
) -> View:
    """The linears of `layer` named in `widths` as one op, with their biases where they have them."""
    weights = [(f"layers.{layer}.{part}.weight", width) for part, width in widths.items()]
    biases = [f"layers.{layer}.{part}.bias" for part in widths] if bias else ()
    return ops.linear(x, weights, biases, residual)
