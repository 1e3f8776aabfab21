"""Ways to quantise a weight, by name: the checkpoint's config, its writer, and what octavo makes of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from support import quantised_checkpoints as write

INT4 = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 64}
INT8 = {"num_bits": 8, "type": "int", "strategy": "channel"}
FLOAT8 = {"num_bits": 8, "type": "float"}
FLOAT4 = {"num_bits": 4, "type": "float", "strategy": "group", "group_size": 32}
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 128, "version": "gemm", "zero_point": True}
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 128}
BITSANDBYTES = {"quant_method": "bitsandbytes", "load_in_4bit": True}


def compressed(method: str, **weights: Any) -> tuple[dict[str, Any], Any]:
    return write.compressed_tensors_config(method, **weights), lambda: write.compressed_tensors(
        method, **weights
    )


# name: (quantization_config, what makes the writer, what the weight runs as, its description)
CASES: dict[str, tuple[dict[str, Any], Any, str, str]] = {
    "awq": (AWQ, write.awq, "Q4_1", "AWQ int4, groups of 128"),
    "awq-32": (AWQ, lambda: write.awq(32), "Q4_1", "AWQ int4, groups of 32"),
    "gptq": (GPTQ, write.gptq, "Q4_0", "GPTQ int4, groups of 128"),
    "gptq-row": (GPTQ, lambda: write.gptq(size=512), "Q4_0", "GPTQ int4, a scale a row"),
    "gptq-zeros": (GPTQ, lambda: write.gptq(symmetric=False), "Q4_1", "GPTQ int4, groups of 128"),
    "gptq-8": (GPTQ, lambda: write.gptq(8, 32), "Q8_0", "GPTQ int8, groups of 32"),
    "gptq-8-zeros": (
        GPTQ,
        lambda: write.gptq(8, 64, symmetric=False),
        "U8_1",
        "GPTQ int8, groups of 64",
    ),
    "gptq-act-order": (
        GPTQ | {"desc_act": True},
        lambda: write.gptq(act_order=True),
        "Q4_0",
        "GPTQ int4, groups of 128, act-order",
    ),
    "gptq-act-order-zeros": (
        GPTQ | {"desc_act": True},
        lambda: write.gptq(act_order=True, symmetric=False),
        "Q4_1",
        "GPTQ int4, groups of 128, act-order",
    ),
    "gptq-v2": (
        GPTQ | {"checkpoint_format": "gptq_v2"},
        lambda: write.gptq(symmetric=False, version=2),
        "Q4_1",
        "GPTQ int4, groups of 128",
    ),
    "w8a8": (*compressed("int-quantized", **INT8), "Q8_0", "compressed-tensors int8, a scale a row"),
    "w8a8-zeros": (
        *compressed("int-quantized", **INT8, symmetric=False),
        "U8_1",
        "compressed-tensors int8, a scale a row",
    ),
    "w8-tensor": (
        *compressed("int-quantized", **INT8 | {"strategy": "tensor"}),
        "Q8_0",
        "compressed-tensors int8, a scale a row",
    ),
    "w4a16": (*compressed("pack-quantized", **INT4), "Q4_0", "compressed-tensors int4, groups of 64"),
    "w4a16-zeros": (
        *compressed("pack-quantized", **INT4, symmetric=False),
        "Q4_1",
        "compressed-tensors int4, groups of 64",
    ),
    "w4a16-row": (
        *compressed("pack-quantized", **INT8 | {"num_bits": 4}),
        "Q4_0",
        "compressed-tensors int4, a scale a row",
    ),
    "w8a16": (
        *compressed("pack-quantized", **INT4 | {"num_bits": 8}),
        "Q8_0",
        "compressed-tensors int8, groups of 64",
    ),
    "ct-fp8": (
        *compressed("float-quantized", **FLOAT8, strategy="channel"),
        "F8_E4M3",
        "FP8 E4M3, a scale a row",
    ),
    "ct-fp8-tensor": (
        *compressed("naive-quantized", **FLOAT8, strategy="tensor"),
        "F8_E4M3",
        "FP8 E4M3, a scale a tensor",
    ),
    "ct-fp8-block": (
        *compressed("float-quantized", **FLOAT8, strategy="block", block_structure=[64, 128]),
        "F8_E4M3",
        "FP8 E4M3, blocks of 64x128",
    ),
    "ct-mxfp4": (*compressed("mxfp4-pack-quantized", **FLOAT4), "MXFP4", "MXFP4"),
    "fp8-block": (
        {"quant_method": "fp8", "weight_block_size": [128, 128], "activation_scheme": "dynamic"},
        lambda: write.float8("block"),
        "F8_E4M3",
        "FP8 E4M3, blocks of 128x128",
    ),
    "fp8-tensor-static": (
        {"quant_method": "fp8", "activation_scheme": "static"},
        lambda: write.float8("tensor", ".weight_scale", static=True),
        "F8_E4M3",
        "FP8 E4M3, a scale a tensor",
    ),
    "fp8-row": (
        {"quant_method": "fbgemm_fp8"},
        lambda: write.float8("row", ".weight_scale"),
        "F8_E4M3",
        "FP8 E4M3, a scale a row",
    ),
    "nf4": (BITSANDBYTES, lambda: write.bitsandbytes("nf4"), "NF4", "NF4, groups of 64"),
    "nf4-plain": (
        BITSANDBYTES,
        lambda: write.bitsandbytes("nf4", nested=False, size=128),
        "NF4",
        "NF4, groups of 128",
    ),
    "fp4": (BITSANDBYTES, lambda: write.bitsandbytes("fp4"), "FP4", "FP4, groups of 64"),
    "mxfp4": ({"quant_method": "mxfp4"}, lambda: write.mxfp4, "MXFP4", "MXFP4"),
}

SHAPE = (640, 512)  # three slices of rows, the last one shorter


def weight_of(shape: tuple[int, int] = SHAPE) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(shape, generator=generator) * 0.1


def save(path: Path, config: dict[str, Any] | None, tensors: dict[str, torch.Tensor]) -> Path:
    path.mkdir(exist_ok=True)
    settings = {} if config is None else {"quantization_config": config}
    (path / "config.json").write_text(json.dumps(settings))
    save_file({key: value.contiguous() for key, value in tensors.items()}, path / "model.safetensors")
    return path


def save_case(path: Path, name: str, shape: tuple[int, int] = SHAPE) -> np.ndarray:
    """Write the module "m" of a case, and a norm; gives the values of its weight."""
    config, writer, *_ = CASES[name]
    parts, values = writer()(weight_of(shape))
    save(
        path, config, {f"m{suffix}": part for suffix, part in parts.items()} | {"norm.weight": torch.ones(5)}
    )
    return values
