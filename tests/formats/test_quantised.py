"""Quantised Hugging Face weights bit for bit: against each format's library, or its documented layout."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from support import quantised_checkpoints as write
from support.quantised_cases import CASES, SHAPE, save, save_case, weight_of

from octavo.formats.checkpoint import open_checkpoint
from octavo.formats.normalise import normalise
from octavo.formats.tensor import Encoding
from octavo.formats.weight import QuantisedWeight

STEPS_OF_TABLES = {"NF4": 1 / 260, "FP4": 1 / 310}
"""What rounding the values of a table to integers moves them by, in parts of the largest."""


@pytest.mark.parametrize("name", CASES)
def test_values_bit_for_bit(name, tmp_path):
    values = save_case(tmp_path, name)
    _, _, runs_as, description = CASES[name]
    checkpoint = open_checkpoint(tmp_path)
    assert {"m.weight", "norm.weight"} <= checkpoint.tensors <= {"m.weight", "norm.weight", "m.bias"}
    weight = checkpoint.tensor("m.weight")
    assert isinstance(weight, QuantisedWeight)
    assert weight.shape == SHAPE
    assert weight.format == description
    ours = weight.to_float32()
    assert np.array_equal(ours, values)
    normalised = normalise(weight)
    assert normalised.encoding is weight.runs_as is Encoding(runs_as)
    part = STEPS_OF_TABLES.get(runs_as, 2**-11 * 1.01)
    assert np.allclose(normalised.to_float32(), ours, rtol=2**-11, atol=part * np.abs(ours).max())


def test_bitsandbytes_8_bit(tmp_path):
    """Theirs is (code * SCB) / 127 and ours code * (SCB / 127): one rounding apart."""
    parts, values = write.bitsandbytes_8_bit(weight_of().half())
    save(
        tmp_path,
        {"quant_method": "bitsandbytes", "load_in_8bit": True},
        {f"m{k}": v for k, v in parts.items()},
    )
    weight = open_checkpoint(tmp_path).tensor("m.weight")
    assert (weight.format, normalise(weight).encoding) == ("LLM.int8, a scale a row", Encoding.Q8_0)
    assert np.allclose(weight.to_float32(), values, rtol=1e-6, atol=0)


@pytest.mark.parametrize(("name", "shape"), [
    ("fp8-block", (200, 300)),  # blocks that are cut at both ends
    ("awq-32", (8, 32)), ("gptq-8", (4, 32)), ("w8a8", (1, 1)), ("w4a16", (3, 64)), ("mxfp4", (1, 32)),
])  # fmt: skip
def test_awkward_shapes(name, shape, tmp_path):
    values = save_case(tmp_path, name, shape)
    weight = open_checkpoint(tmp_path).tensor("m.weight")
    assert weight.shape == shape
    assert np.array_equal(weight.to_float32(), values)
    assert np.allclose(normalise(weight).to_float32(), values, rtol=2**-10, atol=1e-4)


@pytest.mark.parametrize("shape", [(17, 96), (3, 3)])
def test_nf4_blocks_over_the_ends_of_rows(shape, tmp_path):
    """bitsandbytes' own CPU kernel reads such a matrix right only as one row."""
    config, writer, *_ = CASES["nf4-plain"]
    parts, values = writer()(weight_of(shape).reshape(1, -1))
    name = ".weight.quant_state.bitsandbytes__nf4"
    state = json.loads(parts[name].numpy().tobytes()) | {"shape": shape}
    parts[name] = torch.frombuffer(bytearray(json.dumps(state).encode()), dtype=torch.uint8)
    save(tmp_path, config, {f"m{key}": value for key, value in parts.items()})
    weight = open_checkpoint(tmp_path).tensor("m.weight")
    assert np.array_equal(weight.to_float32(), values.reshape(shape))


def test_every_e4m3_byte(tmp_path):
    codes = torch.arange(256, dtype=torch.uint8).reshape(2, 128)
    tensors = {"m.weight": codes.view(torch.float8_e4m3fn), "m.weight_scale": torch.tensor([[1.0], [0.5]])}
    save(tmp_path, {"quant_method": "fp8"}, tensors)
    expected = tensors["m.weight"].float() * tensors["m.weight_scale"]
    ours = open_checkpoint(tmp_path).tensor("m.weight").to_float32()
    assert np.array_equal(ours, expected.numpy(), equal_nan=True)


def test_block_scales_that_are_powers_of_two(tmp_path):
    exponents = torch.tensor([[120, 127], [130, 1]], dtype=torch.uint8).view(torch.float8_e8m0fnu)
    codes = torch.full((256, 256), 2.0).to(torch.float8_e4m3fn)
    save(tmp_path, {"quant_method": "fp8"}, {"m.weight": codes, "m.weight_scale_inv": exponents})
    ours = open_checkpoint(tmp_path).tensor("m.weight").to_float32()
    assert ours[::128, ::128].tolist() == [[2**-6, 2], [16, 2**-125]]


def test_zero_points_that_are_not_packed(tmp_path):
    """As earlier versions of compressed-tensors stored them."""
    values = save_case(tmp_path, "w4a16-zeros")
    checkpoint = open_checkpoint(tmp_path)
    names = ("weight_packed", "weight_scale", "weight_shape")
    tensors = {f"m.{name}": torch.tensor(checkpoint.array(f"m.{name}").values) for name in names}
    tensors["m.weight_scale"] = tensors["m.weight_scale"].view(torch.bfloat16)
    parts, _ = CASES["w4a16-zeros"][1]()(weight_of())
    words = parts[".weight_zero_point"].numpy().view(np.uint32)
    nibbles = (words[:, None] >> np.arange(0, 32, 4, dtype=np.uint32)[:, None]) & 15
    tensors["m.weight_zero_point"] = torch.tensor(nibbles.reshape(SHAPE[0], -1).astype(np.int8) - 8)
    save(tmp_path, CASES["w4a16-zeros"][0], tensors)
    assert np.array_equal(open_checkpoint(tmp_path).tensor("m.weight").to_float32(), values)


def test_settings_files_of_their_own(tmp_path):
    """Earlier versions of AutoGPTQ and AutoAWQ wrote theirs beside config.json."""
    for name, file in (("gptq", "quantize_config.json"), ("awq", "quant_config.json")):
        parts, values = CASES[name][1]()(weight_of())
        path = save(tmp_path / name, None, {f"m{key}": value for key, value in parts.items()})
        (path / file).write_text(json.dumps({"bits": 4, "w_bit": 4, "version": "GEMM"}))
        assert np.array_equal(
            open_checkpoint(path).tensor("m.weight").to_float32().astype(values.dtype), values
        )


def test_act_order_with_groups_of_other_sizes(tmp_path):
    """One column moved from a group to the next: nothing runs that as integers, and float16 is right."""
    config, writer, *_ = CASES["gptq-act-order"]
    parts, values = writer()(weight_of().half())
    group_of = parts[".g_idx"].clone()
    column = int(np.flatnonzero(group_of.numpy() == 0)[0])
    group_of[column] = 1
    scales = parts[".scales"].float().numpy()
    values[:, column] = values[:, column] / scales[0] * scales[1]
    save(tmp_path, config, {f"m{k}": v for k, v in (parts | {".g_idx": group_of}).items()})
    weight = open_checkpoint(tmp_path).tensor("m.weight")
    assert np.allclose(weight.to_float32(), values, rtol=1e-3)
    assert normalise(weight).encoding is Encoding.F16
    assert np.allclose(normalise(weight).to_float32(), values, rtol=1e-3)
