"""torchao's safetensors, written by torchao itself, except where that needs a GPU's library."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from octavo.formats.checkpoint import open_checkpoint
from octavo.formats.normalise import normalise
from octavo.formats.tensor import Encoding

torchao = pytest.importorskip("torchao")

SHAPE = (48, 128)


def write(path: Path, tensors: dict[str, torch.Tensor]) -> Path:
    from torchao.prototype.safetensors.safetensors_support import flatten_tensor_state_dict

    flat, metadata = flatten_tensor_state_dict(tensors)
    save_file(flat, path / "model.safetensors", metadata=metadata)
    settings = {"quant_method": "torchao", "quant_type": {"default": {}}}
    (path / "config.json").write_text(json.dumps({"quantization_config": settings}))
    return path


def quantised(config: object) -> torch.Tensor:
    torch.manual_seed(0)
    linear = torch.nn.Linear(SHAPE[1], SHAPE[0], bias=False)
    torchao.quantize_(linear, config)
    return linear.weight.detach()


def intx(dtype: torch.dtype, size: int | None, mapping: str) -> object:
    from torchao.quantization import IntxWeightOnlyConfig, MappingType
    from torchao.quantization.granularity import PerAxis, PerGroup

    granularity = PerAxis(0) if size is None else PerGroup(size)
    return IntxWeightOnlyConfig(
        weight_dtype=dtype, granularity=granularity, mapping_type=MappingType[mapping]
    )


def int8_rows() -> object:
    from torchao.quantization import Int8WeightOnlyConfig

    return Int8WeightOnlyConfig(version=2)


def float8_rows() -> object:
    from torchao.quantization import Float8WeightOnlyConfig

    return Float8WeightOnlyConfig()


CASES = {
    "int4": (lambda: intx(torch.int4, 32, "SYMMETRIC"), "torchao int4, groups of 32", "Q4_0"),
    "int4-zeros": (lambda: intx(torch.int4, 64, "ASYMMETRIC"), "torchao int4, groups of 64", "Q4_1"),
    "int8": (lambda: intx(torch.int8, None, "SYMMETRIC"), "torchao int8, a scale a row", "Q8_0"),
    "int8-rows": (int8_rows, "torchao int8, a scale a row", "Q8_0"),
    "float8": (float8_rows, "FP8 E4M3, a scale a row", None),
}


@pytest.mark.parametrize("name", CASES)
def test_values_bit_for_bit(name, tmp_path):
    config, description, runs_as = CASES[name]
    weight = quantised(config())
    write(tmp_path, {"m.weight": weight, "norm.weight": torch.ones(5)})
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.tensors == {"m.weight", "norm.weight"}
    ours = checkpoint.tensor("m.weight")
    assert ours.format == description
    assert np.array_equal(ours.to_float32(), weight.dequantize().float().numpy())
    if runs_as is not None:
        assert normalise(ours).encoding is Encoding[runs_as]


def int4_tensor(symmetric: bool) -> tuple[torch.Tensor, np.ndarray]:
    """An Int4Tensor whose codes are packed as FBGEMM's pack_int4 does, and its values."""
    from torchao.quantization import Int4Tensor

    rng = np.random.default_rng(0)
    rows, cols = SHAPE
    codes = rng.integers(-8, 8, SHAPE).astype(np.int8)
    scale = rng.uniform(0.01, 0.1, (cols // 32, rows)).astype(np.float32)
    zero = np.zeros_like(scale) if symmetric else rng.normal(size=scale.shape).astype(np.float32)
    packed = (codes[:, ::2] & 15) | (codes[:, 1::2] << 4)
    tensor = Int4Tensor(
        torch.from_numpy(packed),
        torch.from_numpy(scale),
        torch.from_numpy(zero),
        block_size=[1, 32],
        shape=torch.Size(SHAPE),
    )
    values = codes * np.repeat(scale.T, 32, axis=1) + np.repeat(zero.T, 32, axis=1)
    return tensor, values


@pytest.mark.parametrize("symmetric", [True, False])
def test_int4_tensors(symmetric, tmp_path):
    tensor, values = int4_tensor(symmetric)
    ours = open_checkpoint(write(tmp_path, {"m.weight": tensor})).tensor("m.weight")
    assert np.allclose(ours.to_float32(), values, rtol=1e-5, atol=1e-6)
    assert normalise(ours).encoding is (Encoding.Q4_0 if symmetric else Encoding.Q4_1)


def test_other_types_are_named(tmp_path):
    tensor, _ = int4_tensor(True)
    write(tmp_path, {"m.weight": tensor})
    data = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(data.replace(b"Int4Tensor", b"Int4Opaque"))
    with pytest.raises(
        ValueError, match=r"'m\._weight_qdata' is of torchao's 'Int4Opaque'; octavo reads Intx"
    ):
        open_checkpoint(tmp_path).tensor("m.weight")


def test_without_metadata(tmp_path):
    tensors = {"m._weight_qdata": torch.zeros(4, 32, dtype=torch.int8), "m._weight_scale": torch.ones(4, 1)}
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"of a type that the file's metadata do not name"):
        open_checkpoint(tmp_path, "torchao").tensor("m.weight")
