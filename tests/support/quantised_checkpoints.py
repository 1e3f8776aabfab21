"""Quantised Hugging Face checkpoints of tiny models, and what their weights are worth.

compressed-tensors and bitsandbytes write their own; AWQ, GPTQ, fp8 and MXFP4 are written here as documented,
element by element where that is intricate.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from safetensors.torch import save_file

Tensors = dict[str, torch.Tensor]
Quantise = Callable[[torch.Tensor], tuple[Tensors, np.ndarray]]
"""A weight `[out, in]` as its parts, by the ends of their names, and the float32 values they stand for."""


def write_checkpoint(
    model: transformers.PreTrainedModel, path: Path, quantise: Quantise, config: dict[str, Any] | None
) -> transformers.PreTrainedModel:
    """Write `model` with its layers' linears quantised; gives the model with the values that were written."""
    path.mkdir(exist_ok=True)
    tensors, values = {}, {}
    for name, value in model.state_dict().items():
        if name.endswith("_proj.weight"):
            parts, dequantised = quantise(value)
            module = name.removesuffix(".weight")
            tensors |= {module + suffix: part.contiguous() for suffix, part in parts.items()}
            values[name] = torch.from_numpy(dequantised)
        else:
            tensors[name] = values[name] = value.clone()
    save_file(tensors, path / "model.safetensors")
    settings = model.config.to_dict() | {"architectures": ["LlamaForCausalLM"]}
    if config is not None:
        settings["quantization_config"] = config
    (path / "config.json").write_text(json.dumps(settings))
    copy = transformers.AutoModelForCausalLM.from_config(model.config).float().eval()
    copy.load_state_dict(values)
    return copy


def awq(size: int = 128) -> Quantise:
    """AutoAWQ's WQLinear_GEMM; its kernel rounds the values to float16, which these are before."""

    def quantise(weight: torch.Tensor) -> tuple[Tensors, np.ndarray]:
        codes, scales, zeros = _integers(weight.numpy(), 4, size, symmetric=False)
        values = (codes - _spread(zeros, size)) * _spread(scales.astype(np.float32), size)
        parts = {".qweight": _awq_words(codes.T), ".qzeros": _awq_words(zeros.T)}
        return _torch(parts) | {".scales": torch.from_numpy(scales.T.copy())}, values.astype(np.float32)

    return quantise


def _awq_words(codes: np.ndarray) -> np.ndarray:
    words = np.zeros((codes.shape[0], codes.shape[1] // 8), np.uint32)
    for column in range(words.shape[1]):
        for i, within in enumerate([0, 2, 4, 6, 1, 3, 5, 7]):
            words[:, column] |= codes[:, column * 8 + within].astype(np.uint32) << np.uint32(4 * i)
    return words


def gptq(
    bits: int = 4, size: int = 128, *, symmetric: bool = True, act_order: bool = False, version: int = 1
) -> Quantise:
    """AutoGPTQ's QuantLinear, and gptqmodel's second version of it; values as for AWQ."""

    def quantise(weight: torch.Tensor) -> tuple[Tensors, np.ndarray]:
        cols = weight.shape[1]
        order = np.random.default_rng(cols).permutation(cols) if act_order else np.arange(cols)
        group_of = np.empty(cols, np.int32)
        group_of[order] = np.arange(cols) // size
        sorted_codes, scales, zeros = _integers(weight.numpy()[:, order], bits, size, symmetric=symmetric)
        zeros = np.maximum(zeros, 1)  # the first version cannot hold 0
        codes = np.empty_like(sorted_codes)
        codes[:, order] = sorted_codes
        values = (codes - zeros[:, group_of]) * scales.astype(np.float32)[:, group_of]
        parts = {
            ".qweight": _words(codes, bits).T,
            ".qzeros": _words((zeros - (version == 1)).T, bits),
            ".g_idx": group_of,
        }
        scales_part = {".scales": torch.from_numpy(scales.T.copy())}
        bias = {".bias": torch.zeros(len(codes), dtype=torch.float16)}  # what AutoGPTQ saves for Llama too
        return _torch(parts) | scales_part | bias, values.astype(np.float32)

    return quantise


def _words(codes: np.ndarray, bits: int) -> np.ndarray:
    """`[n, m]` codes in `[n, m * bits / 32]` words, the first in the lowest bits."""
    each = 32 // bits
    words = np.zeros((codes.shape[0], codes.shape[1] // each), np.uint32)
    for i in range(codes.shape[1]):
        words[:, i // each] |= codes[:, i].astype(np.uint32) << np.uint32(bits * (i % each))
    return words


def compressed_tensors(method: str, **weights: Any) -> Quantise:
    """compressed-tensors' own compressor of the format `method`, with the weights' QuantizationArgs."""
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
    from compressed_tensors.quantization.utils import calculate_qparams

    args = QuantizationArgs(**weights)
    scheme = QuantizationScheme(targets=["Linear"], weights=args)
    compressor = BaseCompressor.get_value_from_registry(method)

    def quantise(weight: torch.Tensor) -> tuple[Tensors, np.ndarray]:
        rows, cols = weight.shape
        match args.strategy:
            case "tensor":
                groups = weight.reshape(1, -1)
            case "channel":
                groups = weight.reshape(rows, 1, cols)
            case "group":
                groups = weight.reshape(rows, -1, args.group_size)
            case "block":
                tall, wide = args.block_structure
                groups = weight.reshape(rows // tall, tall, -1, wide).transpose(1, 2).flatten(2)
        scale, zero = calculate_qparams(groups.amin(dim=-1), groups.amax(dim=-1), args)
        scale = scale.bfloat16()
        state = {"weight": weight, "weight_scale": scale, "weight_zero_point": zero}
        parts = compressor.compress(state, scheme)
        # In float32 a product of a bfloat16 and a code is exact: that is what the tensors stand for.
        exact = compressor.decompress(parts | _float_scale(parts), scheme)["weight"]
        return {f".{name}": part for name, part in parts.items()}, exact.float().numpy()

    return quantise


def _float_scale(parts: Tensors) -> Tensors:
    scale = parts["weight_scale"]
    return {"weight_scale": scale.float() if scale.is_floating_point() else scale}


def compressed_tensors_config(method: str, **weights: Any) -> dict[str, Any]:
    """The quantization_config of such a checkpoint."""
    group = {"targets": ["Linear"], "weights": weights, "input_activations": None}
    return {
        "quant_method": "compressed-tensors",
        "format": method,
        "config_groups": {"group_0": group},
        "ignore": ["lm_head"],
        "quantization_status": "compressed",
    }


def float8(scale_of: str, suffix: str = ".weight_scale_inv", *, static: bool = False) -> Quantise:
    """E4M3 with a scale a "tensor", a "row", or a "block" of 128 x 128."""

    def quantise(weight: torch.Tensor) -> tuple[Tensors, np.ndarray]:
        rows, cols = weight.shape
        tall, wide = {"tensor": (rows, cols), "row": (1, cols), "block": (128, 128)}[scale_of]
        padded = torch.nn.functional.pad(weight, (0, -cols % wide, 0, -rows % tall))
        blocks = padded.unflatten(1, (-1, wide)).unflatten(0, (-1, tall)).abs()
        scale = blocks.amax(dim=(1, 3)) / 448
        spread = scale.repeat_interleave(tall, 0).repeat_interleave(wide, 1)[:rows, :cols]
        codes = (weight / spread).to(torch.float8_e4m3fn)
        if scale_of == "tensor":
            scale = scale.reshape(())
        parts = {".weight": codes, suffix: scale}
        if static:
            parts[".input_scale"] = torch.tensor(0.02)
        return parts, (codes.float() * spread).numpy()

    return quantise


def bitsandbytes(kind: str, *, nested: bool = True, size: int = 64) -> Quantise:
    """bitsandbytes' own 4-bit weights, as its Linear4bit saves them."""
    from bitsandbytes import functional

    def quantise(weight: torch.Tensor) -> tuple[Tensors, np.ndarray]:
        packed, state = functional.quantize_4bit(
            weight, blocksize=size, quant_type=kind, compress_statistics=nested
        )
        values = functional.dequantize_4bit(packed, state)
        parts = {f".weight.{name}": part for name, part in state.as_dict(packed=True).items()}
        return {".weight": packed} | parts, values.numpy()

    return quantise


def bitsandbytes_8_bit(weight: torch.Tensor) -> tuple[Tensors, np.ndarray]:
    """LLM.int8() as Linear8bitLt saves it."""
    from bitsandbytes import functional

    codes, row_scales, _ = functional.int8_vectorwise_quant(weight)
    parts = {".weight": codes, ".SCB": row_scales, ".weight_format": torch.tensor(0, dtype=torch.uint8)}
    return parts, functional.int8_vectorwise_dequant(codes, row_scales).numpy()


def mxfp4(weight: torch.Tensor) -> tuple[Tensors, np.ndarray]:
    """gpt-oss's layout, with the name of a linear: weight_blocks and weight_scales."""
    values = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)
    groups = weight.numpy().reshape(len(weight), -1, 32)
    exponents = np.floor(np.log2(np.abs(groups).max(axis=2))).astype(int) - 2
    scales = 2.0 ** exponents[..., None]
    codes = np.abs((groups / scales)[..., None] - values).argmin(axis=3).astype(np.uint8)
    blocks = codes[..., ::2] | codes[..., 1::2] << 4
    parts = {".weight_blocks": blocks, ".weight_scales": (exponents + 127).astype(np.uint8)}
    return _torch(parts), (values[codes] * scales).astype(np.float32).reshape(weight.shape)


def _integers(
    weight: np.ndarray, bits: int, size: int, *, symmetric: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Unsigned codes `[out, in]`, float16 scales and integer zeros `[out, groups]`."""
    groups = weight.reshape(len(weight), -1, size)
    most = (1 << bits) - 1
    if symmetric:
        scales = (np.abs(groups).max(axis=2) * 2 / most).astype(np.float16)
        zeros = np.full(scales.shape, (most + 1) // 2)
    else:
        low, high = np.minimum(groups.min(axis=2), 0), np.maximum(groups.max(axis=2), 0)
        scales = ((high - low) / most).astype(np.float16)
        zeros = np.rint(-low / scales).astype(int)
    codes = np.clip(np.rint(groups / scales[..., None]) + zeros[..., None], 0, most).astype(int)
    return codes.reshape(weight.shape), scales, zeros


def _spread(numbers: np.ndarray, size: int) -> np.ndarray:
    """`[out, groups]` as `[out, in]`."""
    return np.repeat(numbers, size, axis=1)


def _torch(parts: dict[str, np.ndarray]) -> Tensors:
    return {
        suffix: torch.from_numpy(
            np.ascontiguousarray(part.view(np.int32) if part.dtype == np.uint32 else part)
        )
        for suffix, part in parts.items()
    }
