"""The traced Program: what it reads, and how much of it runs on which rows."""

from __future__ import annotations

from dataclasses import replace

import pytest

from octavo.model.decoder import trace
from octavo.model.rope import Rope
from octavo.model.spec import DecoderSpec
from octavo.model.weights import weight_shapes
from octavo.runtime.program import Rows

SPEC = DecoderSpec(
    family="test",
    num_layers=3,
    hidden_size=32,
    num_heads=4,
    num_kv_heads=2,
    head_dim=16,
    intermediate_size=96,
    vocab_size=50,
    max_position=64,
    norm_eps=1e-6,
    rope=Rope(dim=16, theta=1e4),
    windows=(0, 7, 0),
)


@pytest.mark.parametrize(
    "traits",
    [
        {},
        {"qkv_bias": True},
        {"output_bias": True, "mlp_bias": True},
        {"qk_norm": True},
        {"tie_embeddings": True},
        {"num_layers": 1, "windows": (0,)},
    ],
    ids=str,
)
def test_reads_each_weight_that_a_checkpoint_holds(traits):
    spec = replace(SPEC, **traits)
    program = trace(spec)
    assert set(program.weight_names) == {*weight_shapes(spec), "lm_head.weight", "rope"}
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
    "changes",
    [
        {"num_layers": 4},
        {"num_layers": 0, "windows": ()},
        {"num_kv_heads": 3},
        {"num_kv_heads": 8},
        {"vocab_size": 1 << 30},
        {"max_position": 1 << 30},
        {"head_dim": 8},
        {"windows": (0, -1, 0)},
    ],
    ids=str,
)
def test_sizes_that_do_not_fit(changes):
    with pytest.raises(ValueError, match=r"num_|vocab_size|max_position|head_dim|windows"):
        replace(SPEC, **changes)
