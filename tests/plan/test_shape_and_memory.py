"""Sizes of models, data sheets, and what fits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from octavo.engine.kv.kv_groups import most_blocks
from octavo.model.layer import LayerSpec
from octavo.model.parts.gated_mlp import GatedMLP
from octavo.model.rope import Rope
from octavo.model.uniform import uniform_decoder
from octavo.plan.devices import DEVICES, parse_devices
from octavo.plan.make import PlanConfig, make_plan
from octavo.plan.memory import device_memory
from octavo.plan.shape import KNOWN, ModelShape, shape_of

SEVENTY_B = shape_of("meta-llama/Llama-3.1-70B-Instruct")


@pytest.mark.parametrize(("tokens", "gigabytes"), [(4096, 1.342), (8192, 2.684), (32_768, 10.737)])
def test_the_kv_cache_of_a_70b_sequence(tokens: int, gigabytes: float) -> None:
    """80 layers, 8 KV heads of 128 values, 2 bytes each."""
    assert SEVENTY_B.kv_cache_bytes(tokens) == 2 * 80 * 8 * 128 * tokens * 2
    assert SEVENTY_B.kv_cache_bytes(tokens) / 1e9 == pytest.approx(gigabytes, abs=0.001)


@pytest.mark.parametrize(("tokens", "gigabytes"), [(4096, 2.6), (8192, 5.2), (32_768, 21)])
def test_figures_that_are_often_quoted_count_four_bytes(tokens: int, gigabytes: float) -> None:
    """2.6, 5.2 and 21 GB a sequence are what the formula gives at 4 bytes a value, not at the 2 of FP16."""
    assert SEVENTY_B.kv_cache_bytes(tokens, bytes_per_value=4) / 1e9 == pytest.approx(gigabytes, rel=0.04)


@given(st.integers(1, 10**6), st.integers(1, 512), st.sampled_from([1.0, 2.0, 4.0]))
def test_the_kv_cache_is_linear(tokens: int, batch: int, size: float) -> None:
    assert SEVENTY_B.kv_cache_bytes(tokens, batch, size) == tokens * batch * size * (
        SEVENTY_B.kv_cache_bytes(1, 1, 1.0)
    )


@pytest.mark.parametrize(
    ("name", "billions"),
    [
        ("Llama-3.2-1B", 1.24),
        ("Llama-3.1-8B", 8.03),
        ("Llama-3.1-70B", 70.6),
        ("Llama-2-7B", 6.74),
        ("Mistral-7B-v0.3", 7.25),
        ("Qwen2.5-7B", 7.62),
        ("Qwen2.5-72B", 72.7),
        ("Qwen3-8B", 8.19),
        ("Gemma-2-9B", 9.24),
        ("Gemma-3-1B", 1.0),
        ("Gemma-3-4B", 3.88),
        ("Gemma-3-27B", 27.0),
        ("gpt-oss-20b", 20.9),
        ("gpt-oss-120b", 116.8),
        ("SmolLM2-135M", 0.1345),
    ],
)
def test_parameters_are_those_that_the_models_are_known_for(name: str, billions: float) -> None:
    assert shape_of(name).parameters / 1e9 == pytest.approx(billions, rel=0.006)


def test_a_file_s_own_sizes(demo_model: Path) -> None:
    shape, known = shape_of(str(demo_model)), KNOWN["smollm2-135m"]
    assert shape.parameters == known.parameters
    assert shape.kv_cache_bytes(100) == known.kv_cache_bytes(100)
    assert shape.weight_bytes(2.0) == demo_model.stat().st_size


def test_a_model_that_is_not_known() -> None:
    with pytest.raises(ValueError, match=r"model \(--model\): 'Llama-3.1-9B' is neither .* llama-3.1-8b"):
        shape_of("Llama-3.1-9B")


def test_devices() -> None:
    assert parse_devices("2xA100-80") == (2, DEVICES["a100-80"])
    assert parse_devices("h100-80GB") == (1, DEVICES["h100-80"])
    for text in ("A200-80", "0xA100-80", "2x", "", "2 x A100"):
        with pytest.raises(ValueError, match=r"gpu \(--gpu\): "):
            parse_devices(text)
    with pytest.raises(ValueError, match=r"is not like 2xA100-80; did you mean A100-80.*\? Known are T4, "):
        parse_devices("2xA100-8")
    with pytest.raises(ValueError, match=r"is not like 2xA100-80\. Known are T4, "):
        parse_devices("2x")


def test_more_devices_or_smaller_weights_hold_more() -> None:
    def blocks(count: int, bytes_per_weight: float = 2.0, utilization: float = 0.9) -> int:
        return device_memory(
            SEVENTY_B,
            DEVICES["a100-80"],
            count,
            utilization=utilization,
            bytes_per_weight=bytes_per_weight,
            kv_bytes_per_value=2.0,
            max_model_len=8192,
            tokens_per_request=640,
            max_num_batched_tokens=8192,
            max_num_seqs=256,
        ).num_blocks

    assert blocks(1) == blocks(2) == 0 < blocks(4) < blocks(8)
    assert blocks(2, 1.0) > blocks(2, 2.0)
    assert blocks(4, utilization=0.95) > blocks(4)
    # Of 4 x 80 GB nine tenths, less the weights, a GB a device and the activations of a step.
    left = 0.9 * 320e9 - 141.1e9 - 4e9 - 8192 * 2 * (6 * 8192 + 2 * 28_672) - 4 * 256 * 128_256
    assert blocks(4) == pytest.approx(left / (327_680 * 16), rel=0.001)


def test_what_to_do_when_it_does_not_fit() -> None:
    plan = make_plan(PlanConfig(model="Llama-3.1-70B", gpu="2xA100-80", rps=1))
    assert not plan.memory.fits
    assert plan.service is None
    assert plan.advice == ["--gpu 4xA100-80 would do", "--dtype fp8 would do"]
    for way in ({"gpu": "4xA100-80"}, {"gpu": "2xA100-80", "dtype": "fp8"}):
        assert make_plan(PlanConfig(model="Llama-3.1-70B", rps=1, **way)).memory.fits


def test_a_shorter_limit_may_do() -> None:
    plan = make_plan(PlanConfig(model="Llama-3.1-8B", gpu="A10G", max_model_len=65_536, rps=1))
    [way] = [way for way in plan.advice if "max-model-len" in way]
    length = int(way.split()[1])
    shorter = PlanConfig(model="Llama-3.1-8B", gpu="A10G", max_model_len=length, rps=1)
    assert make_plan(shorter).memory.fits


@pytest.mark.parametrize(
    ("name", "prefill", "decode"),
    [("Gemma-2-9B", 6376, 6051), ("Gemma-3-4B", 1001, 762), ("gpt-oss-20b", 818, 771)],
)
def test_layers_with_a_window_keep_what_they_see(name: str, prefill: float, decode: float) -> None:
    """MiB that the real scheduler holds of a sequence of 32,768 tokens (benchmarks/kv_groups.py)."""
    shape = KNOWN[name.lower()]
    groups = shape.kv_groups(32_768)
    mebibytes = shape.kv_block_bytes(groups) / 2**20
    assert mebibytes * most_blocks(groups, 32_768, 1) == pytest.approx(decode, rel=0.005)
    assert mebibytes * most_blocks(groups, 32_768, 2048) == pytest.approx(prefill, rel=0.005)


def test_layers_that_differ_are_counted_one_by_one() -> None:
    sizes = {"family": "test", "num_layers": 3, "hidden_size": 64, "num_heads": 4, "num_kv_heads": 2}
    sizes |= {
        "head_dim": 16,
        "intermediate_size": 96,
        "vocab_size": 100,
        "max_position": 64,
        "norm_eps": 1e-5,
    }
    spec = uniform_decoder(**sizes, rope=Rope(dim=16, theta=1e4))

    def change(number: int, layer: LayerSpec) -> LayerSpec:
        if number == 0:
            return replace(layer, mixer=replace(layer.mixer, num_kv_heads=4), mlp=GatedMLP(width=32))
        return replace(layer, mlp=None) if number == 1 else layer

    shape = ModelShape(name="test", spec=spec.replace_layers(change))
    attention = 64 * 64 * 2 + 64 * 32 * 2
    more_kv_heads = 2 * 64 * 32
    layers = 3 * attention + more_kv_heads + 3 * 64 * (32 + 96)
    assert shape.linear_parameters == layers + 64 * 100
    assert shape.parameters == shape.linear_parameters + 64 * 100
    assert shape.attention_macs == 3 * 2 * 64
    assert shape.kv_cache_bytes(10, bytes_per_value=1) == 10 * 2 * (64 + 32 + 32)
    assert shape.kv_block_bytes(shape.kv_groups(64), 1) == 16 * 2 * (64 + 32 + 32)
    assert shape.widest_mlp == 96


def test_a_plan_counts_them_so() -> None:
    config = PlanConfig(model="gemma-3-4b-it", gpu="L4", max_model_len=32_768, output_tokens=16, rps=0.1)
    memory = make_plan(config).memory
    assert memory.bytes_per_sequence / 2**20 == pytest.approx(762, rel=0.005)
    assert memory.kv_bytes_per_token * 32_768 / 2**20 == 4352
    assert memory.sequences_of(32_768) == pytest.approx(memory.kv_cache_bytes / 2**20 / 762, rel=0.005)


def test_experts_that_no_token_takes_are_not_read() -> None:
    shape = shape_of("gpt-oss-20b")
    assert shape.linear_parameters / 1e9 == pytest.approx(3.6, rel=0.01)
    assert shape.share_read(1) == pytest.approx((shape.linear_parameters + 201_088 * 2880) / shape.parameters)
    assert shape.share_read(1) < shape.share_read(8) < shape.share_read(256) == pytest.approx(1)
    assert SEVENTY_B.share_read(1) == 1
