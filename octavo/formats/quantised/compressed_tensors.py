"""compressed-tensors, what LLM Compressor writes: integer, packed integer, float8 and MXFP4 weights.

int-quantized     weight int8 `[out, in]`
pack-quantized    weight_packed int32 `[out, in * bits / 32]`: neighbouring inputs in a word, the first in the
                  lowest bits, as code + 2^(bits - 1); weight_shape `[out, in]`
float-quantized   weight float8 (E4M3) `[out, in]`
mxfp4-pack-quantized  weight_packed uint8 `[out, in / 2]`, the first code of a byte in the low nibble, and the
                  exponents in weight_scale `[out, in / 32]`

weight_scale is one number, one a row, `[out, groups]`, or one a block. weight_zero_point has its shape, and
is packed along the outputs where the weight is packed. Value = scale (code - zero). A model may mix these;
each weight's own tensors say which it is.
Source: https://github.com/vllm-project/compressed-tensors, compressors/.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from octavo.formats.fields import Fields
from octavo.formats.groups import Floats
from octavo.formats.quantised.float8 import FP8, block_of, float8_weight
from octavo.formats.quantised.integer_codes import Codes, integer_weight, unpack
from octavo.formats.quantised.method import Method, Parts, one_of
from octavo.formats.quantised.mxfp4 import mxfp4_weight
from octavo.formats.weight import QuantisedWeight

_FLOATS = ("F32", "F16", "BF16")
_FORMATS = (
    "int-quantized",
    "pack-quantized",
    "float-quantized",
    "naive-quantized",
    "mxfp4-pack-quantized",
    "mixed-precision",
)
_BLOCK = (128, 128)


def _check(settings: Fields) -> None:
    one_of(settings, "format", _FORMATS, "pack-quantized")
    for group in _groups(settings):
        one_of(group, "format", (*_FORMATS, None), None)
    sparsity = settings.group("sparsity_config").get("format")
    if sparsity not in (None, "dense"):
        raise settings.error("sparsity_config", f"asks for {sparsity!r:.40}; octavo reads no sparse weights")
    if settings.group("transform_config").get("config_groups"):
        raise settings.error(
            "transform_config", "asks for transforms of activations, which octavo does not have"
        )


def _groups(settings: Fields) -> list[Fields]:
    """The schemes of quantization_config.config_groups."""
    groups = settings.group("config_groups")
    return [groups.group(name) for name in settings.get("config_groups") or ()]


def _read(parts: Parts, settings: Fields) -> QuantisedWeight:
    if ".weight_packed" not in parts:
        if parts[".weight"].dtype != "I8":
            return float8_weight(parts, ".weight_scale", _block(settings))
        return _int8(parts)
    if parts[".weight_packed"].dtype == "U8":
        return mxfp4_weight(parts, ".weight_packed", ".weight_scale")
    return _packed(parts)


def _block(settings: Fields) -> tuple[int, int]:
    """The blocks of the first scheme that has some."""
    blocks = (block_of(group.group("weights"), "block_structure") for group in _groups(settings))
    return next((block for block in blocks if block), _BLOCK)


def _int8(parts: Parts) -> QuantisedWeight:
    weight = parts.of(".weight", ("I8",), (None, None)).values
    scales = _scales(parts, len(weight))
    zeros: NDArray[np.int16] | None = None
    if ".weight_zero_point" in parts:
        stored = parts[".weight_zero_point"].values
        if stored.dtype != np.int8 or stored.size not in (1, scales.size):
            raise parts.error(".weight_zero_point", f"of shape {stored.shape} is not int8 for each scale")
        zeros = np.broadcast_to(stored.reshape(-1, scales.shape[1]), scales.shape).astype(np.int16) + 128

    def codes(rows: slice) -> Codes:
        return weight[rows].view(np.uint8) ^ np.uint8(128)

    return integer_weight(parts, "compressed-tensors", 8, weight.shape, codes, scales, zeros)


def _packed(parts: Parts) -> QuantisedWeight:
    packed = parts.of(".weight_packed", ("I32",), (None, None)).values
    rows, cols = (int(size) for size in parts.of(".weight_shape", ("I64", "I32"), (2,)).values)
    bits = 32 * packed.shape[1] // cols if cols > 0 else 0
    if bits not in (4, 8) or packed.shape != (rows, cols * bits // 32) or cols * bits % 32:
        raise parts.error(
            ".weight_packed",
            f"of shape {packed.shape} for {rows} x {cols} weights are not codes of 4 or 8 bits",
        )
    scales = _scales(parts, rows)
    group_of = parts.of(".weight_g_idx", ("I32",), (cols,)).values if ".weight_g_idx" in parts else None

    def codes(rows: slice) -> Codes:
        return unpack(packed[rows], bits)

    zeros = _packed_zeros(parts, bits, scales.shape)
    return integer_weight(parts, "compressed-tensors", bits, (rows, cols), codes, scales, zeros, group_of)


def _packed_zeros(parts: Parts, bits: int, shape: tuple[int, int]) -> NDArray[np.int16] | None:
    """The zero points of unsigned codes, `[out, groups]`; earlier versions did not pack them."""
    if ".weight_zero_point" not in parts:
        return None
    if parts[".weight_zero_point"].dtype == "I8":
        zeros = parts.of(".weight_zero_point", ("I8",), shape).values
        return zeros.astype(np.int16) + np.int16(1 << (bits - 1))
    words = parts.of(".weight_zero_point", ("I32",), (-(-shape[0] * bits // 32), shape[1])).values
    return unpack(words.T, bits).T[: shape[0]].astype(np.int16)


def _scales(parts: Parts, rows: int) -> Floats:
    """weight_scale as `[rows, groups]`."""
    scale = parts[".weight_scale"]
    if scale.dtype not in _FLOATS or not (scale.values.size == 1 or scale.shape[:1] == (rows,)):
        raise parts.error(".weight_scale", f"is {scale.dtype} of shape {scale.shape} for {rows} rows")
    values = scale.to_float32()
    if values.size == 1:
        return np.broadcast_to(values.reshape(1, 1), (rows, 1))
    return values.reshape(rows, -1)


COMPRESSED_TENSORS = Method(
    name="compressed-tensors",
    markers=(".weight_scale",),
    parts=(".weight", ".weight_packed", ".weight_shape", ".weight_zero_point", ".weight_g_idx"),
    unused=(*FP8.unused, ".input_zero_point", ".output_scale", ".output_zero_point"),
    check=_check,
    read=_read,
)
