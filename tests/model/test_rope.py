"""Rotary frequencies and tables against transformers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers
from support.tiny_models import LLAMA3_ROPE, SIZES, YARN_ROPE
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from octavo.formats.fields import Fields
from octavo.model.families.from_hf import rope_from_hf
from octavo.model.rope import LinearScaling, Rope, YarnScaling

HEAD_DIM = 64

SCALED = {
    "linear": {"rope_type": "linear", "rope_theta": 5e5, "factor": 2.5},
    "llama3": {**LLAMA3_ROPE, "rope_theta": 5e5, "original_max_position_embeddings": 64},
    "yarn": YARN_ROPE,
    "yarn-untruncated": {**YARN_ROPE, "truncate": False, "beta_fast": 20.0, "beta_slow": 2.0},
    "yarn-attention-factor": {**YARN_ROPE, "attention_factor": 0.7},
    "yarn-mscale": {**YARN_ROPE, "mscale": 1.0, "mscale_all_dim": 0.8},
    "yarn-past-the-last-dimension": {
        **YARN_ROPE,
        "original_max_position_embeddings": 131072,
        "rope_theta": 10.0,
        "beta_fast": 2820.0,
    },
    "yarn-whole-context": {**YARN_ROPE, "original_max_position_embeddings": 131072, "rope_theta": 1e6},
}


def hf_config(rope: dict) -> transformers.LlamaConfig:
    return transformers.LlamaConfig(**SIZES, head_dim=HEAD_DIM, rope_parameters=dict(rope))


def rope_of(config: dict) -> Rope:
    return rope_from_hf(Fields(config), HEAD_DIM, 128)


@pytest.mark.parametrize("name", SCALED)
def test_frequencies_are_those_of_transformers(name):
    expected, attention_factor = ROPE_INIT_FUNCTIONS[SCALED[name]["rope_type"]](hf_config(SCALED[name]))
    rope = rope_of({"rope_parameters": SCALED[name]})
    assert np.allclose(rope.frequencies(), expected.numpy(), rtol=2e-6, atol=0)
    if isinstance(rope.scaling, YarnScaling):
        assert rope.scaling.attention_factor == pytest.approx(attention_factor)


@pytest.mark.parametrize("name", ["llama3", "yarn"])
def test_table_is_what_transformers_multiplies_with(name):
    embedding = transformers.models.llama.modeling_llama.LlamaRotaryEmbedding(hf_config(SCALED[name]))
    cosines, sines = embedding(torch.zeros(1, 1), torch.arange(128)[None])
    table = rope_of({"rope_parameters": SCALED[name]}).table(128)
    half = HEAD_DIM // 2
    assert table.dtype == np.float32
    assert np.abs(table[:, :half] - cosines[0, :, :half].numpy()).max() < 2e-5
    assert np.abs(table[:, half:] - sines[0, :, :half].numpy()).max() < 2e-5


def test_older_and_newer_config_say_the_same():
    newer = rope_of({"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 5e4}})
    older = rope_of({"rope_theta": 5e4, "rope_scaling": {"type": "linear", "factor": 2.0}})
    assert newer == older == Rope(dim=HEAD_DIM, theta=5e4, scaling=LinearScaling(factor=2.0))


def test_defaults():
    assert rope_of({}) == rope_of({"rope_scaling": None}) == Rope(dim=HEAD_DIM, theta=10_000.0)


def test_dynamic_is_unscaled_within_the_context():
    """As in transformers for sequences no longer than max_position_embeddings."""
    expected, _ = ROPE_INIT_FUNCTIONS["dynamic"](
        hf_config({"rope_type": "dynamic", "factor": 4.0}), seq_len=100
    )
    assert np.allclose(rope_of({"rope_scaling": {"type": "dynamic", "factor": 4.0}}).frequencies(), expected)


def test_divisors_divide_the_frequencies():
    divisors = tuple(range(1, 33))
    plain = Rope(dim=64, theta=1e4).frequencies()
    assert np.allclose(Rope(dim=64, theta=1e4, divisors=divisors).frequencies(), plain / np.array(divisors))


@pytest.mark.parametrize(
    ("scaling", "described", "expected"),
    [
        ({}, 128, 128),
        ({"rope_type": "linear", "factor": 4.0}, 128, 512),
        ({"rope_type": "dynamic", "factor": 4.0}, 128, 128),
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}, 128, 512),
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}, 128, 128),
        (LLAMA3_ROPE, 128, 128),
    ],
)
def test_max_position(scaling, described, expected):
    assert rope_of({"rope_parameters": scaling}).max_position(described) == expected


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"rope_parameters": {"rope_type": "longrope"}}, "rope_parameters.rope_type is 'longrope'"),
        ({"rope_scaling": {"type": "linear"}}, "rope_scaling.factor is missing"),
        ({"rope_scaling": {"type": "linear", "factor": -1}}, "rope_scaling.factor must be a number"),
        (
            {"rope_scaling": {"type": "linear", "factor": float("inf")}},
            "rope_scaling.factor must be a number",
        ),
        ({"rope_scaling": {"type": "yarn", "factor": "4"}}, "rope_scaling.factor must be a number"),
        ({"rope_scaling": [1]}, "rope_scaling must be an object"),
        ({"rope_theta": 0.5}, "theta must be above 1"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor must be 1"),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor must be 1"),
        ({"rope_parameters": {"full_attention": {"rope_theta": 1e4}}}, "differ by layer"),
        ({"rope_parameters": {**LLAMA3_ROPE, "high_freq_factor": 1.0}}, "high_freq_factor must be above"),
    ],
)
def test_what_is_not_a_rope(config, message):
    with pytest.raises(ValueError, match=message):
        rope_of(config)


@pytest.mark.parametrize(
    "changes", [{"dim": 63}, {"dim": 0}, {"divisors": (1.0,)}, {"divisors": (0.0,) * 32}]
)
def test_numbers_that_do_not_fit(changes):
    with pytest.raises(ValueError, match=r"rotary|factors"):
        Rope(**{"dim": 64, "theta": 1e4, **changes})
