"""What config.json and GGUF metadata are read as, and what is refused."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from octavo.model.layer import LayerSpec
from octavo.model.load import read_model_info, read_spec
from octavo.model.parts.attention import Attention
from octavo.model.parts.gated_mlp import GatedMLP
from octavo.model.parts.norm import RMSNorm

HF_ARCHITECTURES = [
    "LlamaForCausalLM",
    "MistralForCausalLM",
    "MinistralForCausalLM",
    "Qwen2ForCausalLM",
    "Qwen3ForCausalLM",
]
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 160,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
    "eos_token_id": 2,
}


def write_config(path: Path, **changes: Any) -> Path:
    (path / "config.json").write_text(json.dumps(CONFIG | changes))
    return path


def write_metadata(path: Path, **changes: Any) -> Path:
    """A GGUF file with metadata and a token_embd.weight alone; a change to None leaves a key out."""
    metadata = {
        "general.architecture": "llama",
        "llama.block_count": 4,
        "llama.context_length": 128,
        "llama.embedding_length": 64,
        "llama.feed_forward_length": 96,
        "llama.attention.head_count": 4,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "tokenizer.ggml.eos_token_id": 2,
    }
    metadata |= {key.replace("__", "."): value for key, value in changes.items()}
    present = {key: value for key, value in metadata.items() if value is not None}

    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value)) + value.encode()

    data = b"GGUF" + struct.pack("<IQQ", 3, 1, len(present))
    for key, value in present.items():
        match value:
            case str():
                data += text(key) + struct.pack("<I", 8) + text(value)
            case bool():
                data += text(key) + struct.pack("<I?", 7, value)
            case int():
                data += text(key) + struct.pack("<II", 4, value)
            case float():
                data += text(key) + struct.pack("<Id", 12, value)
            case list():
                data += text(key) + struct.pack(f"<IIQ{len(value)}i", 9, 5, len(value), *value)
    data += text("token_embd.weight") + struct.pack("<IQQIQ", 2, 64, 160, 8, 0)
    data += b"\0" * (-len(data) % 32) + b"\0" * (160 * 68)
    (path / "model.gguf").write_bytes(data)
    return path / "model.gguf"


def test_llama(tmp_path):
    spec = read_spec(write_config(tmp_path, attention_bias=True, mlp_bias=True, tie_word_embeddings=True))
    attention = Attention(
        num_heads=4, num_kv_heads=2, head_dim=16, rope="full", qkv_bias=True, output_bias=True
    )
    layer = LayerSpec(mixer=attention, mlp=GatedMLP(width=96, bias=True), norm=RMSNorm(1e-5))
    assert spec.layers == (layer,) * 4
    assert (spec.family, spec.max_position, spec.norm) == ("llama", 128, RMSNorm(1e-5))
    assert (attention.query_cols, attention.kv_cols) == (64, 32)
    assert spec.head.tied


def test_llama_without_the_optional_fields(tmp_path):
    spec = read_spec(write_config(tmp_path, num_key_value_heads=None, rms_norm_eps=None))
    attention = Attention(num_heads=4, num_kv_heads=4, head_dim=16, rope="full")
    layer = LayerSpec(mixer=attention, mlp=GatedMLP(width=96), norm=RMSNorm(1e-6))
    assert spec.layers == (layer,) * 4
    assert not spec.head.tied


@pytest.mark.parametrize(("window", "expected"), [(None, 0), (20, 20)])
def test_mistral_windows(tmp_path, window, expected):
    spec = read_spec(write_config(tmp_path, architectures=["MistralForCausalLM"], sliding_window=window))
    assert spec.windows == (expected,) * 4


@pytest.mark.parametrize(
    ("layer_types", "expected"),
    [(None, (20,) * 4), (["sliding_attention", "full_attention"] * 2, (20, 0, 20, 0))],
)
def test_ministral_windows(tmp_path, layer_types, expected):
    changes = {"architectures": ["MinistralForCausalLM"], "sliding_window": 20, "layer_types": layer_types}
    assert read_spec(write_config(tmp_path, **changes)).windows == expected
    # Mistral has them in all layers, whatever else its configuration says.
    changes["architectures"] = ["MistralForCausalLM"]
    assert read_spec(write_config(tmp_path, **changes)).windows == (20,) * 4


@pytest.mark.parametrize(
    ("changes", "windows"),
    [
        ({}, (0, 0, 0, 0)),
        ({"use_sliding_window": False, "sliding_window": 20, "max_window_layers": 0}, (0, 0, 0, 0)),
        ({"use_sliding_window": True, "sliding_window": None}, (0, 0, 0, 0)),
        ({"use_sliding_window": True, "sliding_window": 20, "max_window_layers": 3}, (0, 0, 0, 20)),
        ({"use_sliding_window": True, "sliding_window": 20}, (0, 0, 0, 0)),
        (
            {
                "use_sliding_window": True,
                "sliding_window": 20,
                "layer_types": ["sliding_attention", "full_attention"] * 2,
            },
            (20, 0, 20, 0),
        ),
    ],
)
@pytest.mark.parametrize("architecture", ["Qwen2ForCausalLM", "Qwen3ForCausalLM"])
def test_qwen_windows(tmp_path, architecture, changes, windows):
    spec = read_spec(write_config(tmp_path, architectures=[architecture], **changes))
    assert spec.windows == windows
    for attention in spec.attentions:
        assert attention.qkv_bias == (architecture == "Qwen2ForCausalLM")
        assert attention.qk_norm == (RMSNorm(1e-5) if architecture == "Qwen3ForCausalLM" else None)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"architectures": ["GPT2LMHeadModel"]},
            "architectures is .*GPT2LMHeadModel.*octavo has LlamaForCausalLM",
        ),
        ({"architectures": None}, "architectures is 'None'"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        ({"quantization_config": {"quant_method": "hqq"}}, "quantization_config.quant_method is 'hqq'"),
        ({"hidden_size": None}, "hidden_size is missing"),
        ({"hidden_size": "64"}, "hidden_size must be an integer"),
        ({"hidden_size": 10**12}, "hidden_size must be an integer from 1 to"),
        ({"num_hidden_layers": 5000}, "num_hidden_layers must be an integer from 1 to 1024"),
        ({"num_hidden_layers": 0}, "num_hidden_layers must be an integer"),
        ({"num_key_value_heads": 3}, "not a multiple of num_kv_heads 3"),
        ({"num_key_value_heads": 8}, "num_kv_heads must be from 1 to 4"),
        ({"head_dim": 15}, "rotary dimension must be even"),
        ({"attention_bias": "yes"}, "attention_bias must be true or false"),
        ({"rms_norm_eps": 0}, "rms_norm_eps must be a number"),
        ({"eos_token_id": 160}, "eos_token_id must be a token below 160"),
        ({"eos_token_id": [2, "x"]}, "eos_token_id must be a token"),
        ({"rope_scaling": {"type": "su"}}, "rope_scaling.rope_type is 'su'"),
    ],
)
def test_configs_that_are_refused(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message) as caught:
        read_model_info(write_config(tmp_path, **changes))
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4),
    max_leaves=6,
)
rope_values = st.dictionaries(
    st.sampled_from(["type", "rope_type", "rope_theta", "factor", "mscale", "beta_fast", "low_freq_factor"]),
    json_values | st.sampled_from(["linear", "llama3", "yarn", "dynamic"]) | st.floats(0.5, 64),
)
odd_configs = st.fixed_dictionaries(
    {"architectures": st.sampled_from([[name] for name in HF_ARCHITECTURES])},
    optional={
        **dict.fromkeys((*CONFIG.keys() - {"architectures"}, "head_dim", "rope_theta"), json_values),
        **dict.fromkeys(("layer_types", "use_sliding_window", "quantization_config"), json_values),
        **dict.fromkeys(("rope_scaling", "rope_parameters"), rope_values | json_values),
    },
)


@given(odd_configs)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_any_config_is_read_or_refused_in_a_line(tmp_path, changes):
    path = write_config(tmp_path, **changes)
    with np.errstate(all="ignore"):
        try:
            read_spec(path).tables(16)
            message = str(path)
        except ValueError as error:
            message = str(error)
    assert "\n" not in message
    assert str(path) in message


@pytest.mark.parametrize(
    ("layer_types", "message"),
    [
        (["full_attention"], "list of 4 layers"),
        ("full", "list of 4 layers"),
        (["chunked_attention"] * 4, "has 'chunked_attention'"),
        ([{}] * 4, "has {}"),
    ],
)
def test_layer_types_that_are_refused(tmp_path, layer_types, message):
    path = write_config(
        tmp_path,
        architectures=["Qwen2ForCausalLM"],
        use_sliding_window=True,
        sliding_window=4,
        layer_types=layer_types,
    )
    with pytest.raises(ValueError, match=f"layer_types.*{message}"):
        read_spec(path)


def test_gguf(tmp_path):
    info = read_model_info(write_metadata(tmp_path, tokenizer__ggml__eot_token_id=7))
    assert info.eos_token_ids == [2, 7]
    attention = Attention(num_heads=4, num_kv_heads=4, head_dim=16, rope="full")
    assert info.spec.attentions == (attention,) * 4
    assert info.spec.vocab_size == 160
    assert info.spec.head.tied


def test_gguf_rope_keys(tmp_path):
    changes = {
        "llama.rope.freq_base": 5e5,
        "llama.rope.scaling.type": "yarn",
        "llama.rope.scaling.factor": 4.0,
        "llama.rope.scaling.original_context_length": 64,
        "llama.rope.scaling.yarn_beta_fast": 16.0,
        "llama.rope.scaling.yarn_attn_factor": 0.5,
        "llama.rope.scaling.attn_factor": 3.0,
    }
    spec = read_spec(write_metadata(tmp_path, **changes))
    rope = spec.ropes["full"]
    assert rope.theta == 5e5
    assert rope.scaling.factor == 4.0
    assert rope.scaling.original_max_position == 64
    assert (rope.scaling.beta_fast, rope.scaling.beta_slow) == (16.0, 1.0)
    assert rope.scaling.attention_factor == 1.5
    assert spec.max_position == 256


def test_gguf_yarn_log_multiplier_is_a_ratio_of_magnitudes(tmp_path):
    changes = {"llama.rope.scaling.type": "yarn", "llama.rope.scaling.factor": 4.0}
    plain = 0.1 * math.log(4) + 1
    for multiplier, expected in ((0.0, plain), (1.0, 1.0), (0.5, plain / (0.05 * math.log(4) + 1))):
        path = write_metadata(tmp_path, **changes, **{"llama.rope.scaling.yarn_log_multiplier": multiplier})
        assert read_spec(path).ropes["full"].scaling.attention_factor == pytest.approx(expected)


def test_gguf_attention_keys(tmp_path):
    changes = {
        "llama.attention.sliding_window": 20,
        "llama.attention.key_length": 32,
        "llama.attention.value_length": 32,
        "llama.attention.head_count_kv": 2,
    }
    spec = read_spec(write_metadata(tmp_path, **changes))
    attention = Attention(num_heads=4, num_kv_heads=2, head_dim=32, rope="full", window=20)
    assert spec.attentions == (attention,) * 4


def test_gguf_keys_that_are_lists_by_layer(tmp_path):
    changes = {
        "llama.attention.head_count": [4, 2, 4, 4],
        "llama.attention.head_count_kv": [4, 1, 2, 2],
        "llama.feed_forward_length": [96, 32, 64, 96],
    }
    spec = read_spec(write_metadata(tmp_path, **changes))
    assert [each.num_heads for each in spec.attentions] == [4, 2, 4, 4]
    assert [each.num_kv_heads for each in spec.attentions] == [4, 1, 2, 2]
    assert [each.mlp.width for each in spec.layers] == [96, 32, 64, 96]
    one_for_all = read_spec(write_metadata(tmp_path, **changes | {"llama.attention.head_count_kv": None}))
    assert [each.num_kv_heads for each in one_for_all.attentions] == [4, 2, 4, 4]


@pytest.mark.parametrize("key", ["llama.rope.scaling.factor", "llama.rope.scale_linear"])
def test_gguf_linear_scaling(tmp_path, key):
    assert read_spec(write_metadata(tmp_path, **{key: 2.0})).ropes["full"].scaling.factor == 2.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"general.architecture": "mamba"},
            "general.architecture is 'mamba'; octavo has llama, qwen2, qwen3",
        ),
        ({"general.architecture": None}, "general.architecture is 'None'"),
        ({"llama.block_count": None}, "llama.block_count is missing"),
        ({"llama.block_count": 2**31}, "llama.block_count must be an integer"),
        ({"llama.feed_forward_length": [96, 96, 96]}, "feed_forward_length must be one integer, or 4, got 3"),
        (
            {"llama.feed_forward_length": [96, 96, 0, 96]},
            r"feed_forward_length\[2\] must be an integer",
        ),
        ({"llama.feed_forward_length": None}, "feed_forward_length is missing"),
        ({"llama.expert_count": 8}, "llama.expert_count asks for a mixture of experts"),
        ({"llama.attention.value_length": 32}, "value_length must be the key length, 16"),
        ({"llama.rope.dimension_count": 8}, "rope.dimension_count must be the head's 16"),
        ({"llama.rope.scaling.type": "longrope"}, "rope.scaling.type is 'longrope'"),
        (
            {"llama.rope.scaling.type": "yarn", "llama.rope.scaling.yarn_ext_factor": 0.5},
            "yarn_ext_factor must be 1",
        ),
        ({"llama.attention.head_count": 3}, "rotary dimension must be even"),
        ({"tokenizer.ggml.eos_token_id": 160}, "eos_token_id must be a token below 160"),
    ],
)
def test_gguf_that_is_refused(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message) as caught:
        read_model_info(write_metadata(tmp_path, **changes))
    assert str(caught.value).startswith(f"{tmp_path / 'model.gguf'}: ")
    assert "\n" not in str(caught.value)
