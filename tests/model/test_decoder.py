"""The traced Program: what it reads, and how much of it runs on which rows."""

from __future__ import annotations

import pytest

from octavo.model.decoder import trace
from octavo.model.parts.norm import RMSNorm
from octavo.model.rope import Rope
from octavo.model.uniform import uniform_decoder
from octavo.model.weights import stored_shapes
from octavo.runtime.program import Rows

SIZES = {
    "family": "test",
    "num_layers": 3,
    "hidden_size": 32,
    "num_heads": 4,
    "num_kv_heads": 2,
    "head_dim": 16,
    "intermediate_size": 96,
    "vocab_size": 50,
    "max_position": 64,
    "norm_eps": 1e-6,
    "rope": Rope(dim=16, theta=1e4),
}
LINEARS = ("attn.q", "attn.k", "attn.v", "attn.o", "mlp.gate", "mlp.up", "mlp.down")
NORMS = {"attn_norm.weight", "mlp_norm.weight"}
SPEC = uniform_decoder(**SIZES).with_windows((0, 7, 0))


@pytest.mark.parametrize(
    ("spec", "parts"),
    [
        (SPEC, set()),
        (SPEC.with_attention(qkv_bias=True), {"attn.q.bias", "attn.k.bias", "attn.v.bias"}),
        (SPEC.with_attention(output_bias=True), {"attn.o.bias"}),
        (SPEC.with_mlp(bias=True), {"mlp.gate.bias", "mlp.up.bias", "mlp.down.bias"}),
        (SPEC.with_attention(qk_norm=RMSNorm(1e-6)), {"attn.q_norm.weight", "attn.k_norm.weight"}),
        (uniform_decoder(**SIZES | {"tie_embeddings": True, "num_layers": 1}), set()),
    ],
    ids=["plain", "qkv bias", "output bias", "mlp bias", "qk norm", "tied"],
)
def test_reads_each_weight_that_a_checkpoint_holds(spec, parts):
    program, stored = trace(spec), set(stored_shapes(spec))
    assert set(program.weight_names) == {*stored, "lm_head.weight", "rope.full"}
    linears = {f"{part}.weight" for part in LINEARS}
    layers = {
        f"layers.{layer}.{each}" for layer in range(spec.num_layers) for each in linears | parts | NORMS
    }
    head = set() if spec.head.tied else {"lm_head.weight"}
    assert stored == {"embed.weight", "norm.weight"} | head | layers
    assert (program.result.cols, program.buffers[program.result.buffer].rows) == (50, Rows.OUTPUTS)


def test_ops_of_a_layer():
    """q, k and v are one linear, gate and up another, and the residuals are added by linears."""
    ops = [each.op for each in trace(SPEC).instructions]
    layer = [
        "rms_norm",
        "linear",
        "rope",
        "paged_attention",
        "linear",
        "rms_norm",
        "linear",
        "silu_mul",
        "linear",
    ]
    assert ops[: 1 + 2 * len(layer)] == ["embedding", *layer, *layer]
    assert "add" not in ops


def test_only_rows_that_want_logits_leave_the_last_attention():
    program = trace(SPEC)
    last_attention = max(i for i, each in enumerate(program.instructions) if each.op == "paged_attention")
    for i, each in enumerate(program.instructions):
        rows = program.buffers[each.output.buffer].rows
        assert rows is (Rows.TOKENS if i <= last_attention else Rows.OUTPUTS), each.op


def test_windows_and_layers_reach_the_attention():
    attentions = [each.attributes for each in trace(SPEC).instructions if each.op == "paged_attention"]
    assert [each["window"] for each in attentions] == [0, 7, 0]
    assert [each["layer"] for each in attentions] == [0, 1, 2]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_layers": 0}, "num_layers must be from 1"),
        ({"num_heads": 0}, "num_heads must be from 1"),
        ({"num_kv_heads": 3}, "num_heads 4 is not a multiple of num_kv_heads 3"),
        ({"num_kv_heads": 8}, "num_kv_heads must be from 1 to 4"),
        ({"hidden_size": 0}, "hidden_size must be from 1"),
        ({"intermediate_size": 1 << 30}, "intermediate_size must be from 1"),
        ({"vocab_size": 1 << 30}, "vocab_size must be from 1"),
        ({"max_position": 1 << 30}, "max_position must be from 1"),
        ({"head_dim": 8}, "rotary dimension 16 is larger than head_dim 8"),
        ({"norm_eps": 0.0}, "norm_eps must be positive"),
        ({"activation": "swish"}, "activation is 'swish'; octavo has silu"),
    ],
    ids=str,
)
def test_sizes_that_do_not_fit(changes, message):
    with pytest.raises(ValueError, match=message):
        uniform_decoder(**SIZES | changes)


@pytest.mark.parametrize("windows", [(0, 0), (0, -1, 0)])
def test_windows_that_do_not_fit(windows):
    with pytest.raises(ValueError, match="window"):
        SPEC.with_windows(windows)


def test_a_rope_that_is_not_there():
    with pytest.raises(ValueError, match="rope 'half' of a layer is not among the model's ropes"):
        SPEC.with_attention(rope="half")
