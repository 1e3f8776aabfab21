"""E4M3 weights with float scales: the fp8 method, and compressed-tensors' float-quantized.

weight is float8 `[out, in]`. It is multiplied by its scale, whatever the scale's name says. The scale is one
number, one a row, or one a block of rows and columns (128 x 128 in DeepSeek's and Qwen's checkpoints). Static
scales of activations are not used: octavo rounds no activation to fp8. Source:
transformers/integrations/finegrained_fp8.py; vLLM's Fp8Config.
"""

from __future__ import annotations

import math

import numpy as np

from octavo.formats.fields import Fields
from octavo.formats.groups import Floats, Groups
from octavo.formats.quantised.method import Method, Parts, one_of
from octavo.formats.raw_array import E4M3
from octavo.formats.tensor import Encoding
from octavo.formats.weight import QuantisedWeight

_BLOCK = (128, 128)


def float8_weight(
    parts: Parts, scale_suffix: str, block: tuple[int, int], suffix: str = ".weight"
) -> QuantisedWeight:
    """The weight of `suffix` and its scale; `block` is what a scale of two dimensions may be for.

    Raises ValueError when the scale has no shape of those above.
    """
    weight = parts.of(suffix, ("F8_E4M3",), (None, None)).values
    scale = parts[scale_suffix].to_float32()
    rows, cols = weight.shape
    blocks = (math.ceil(rows / block[0]), math.ceil(cols / block[1]))
    if scale.size == 1:
        scale, tall, wide, form = scale.reshape(1, 1), rows, cols, "a scale a tensor"
    elif scale.shape in ((rows,), (rows, 1)):
        scale, tall, wide, form = scale.reshape(rows, 1), 1, cols, "a scale a row"
    elif scale.shape == blocks:
        (tall, wide), form = block, f"blocks of {block[0]}x{block[1]}"
    else:
        raise parts.error(scale_suffix, f"of shape {scale.shape} is no scale of a weight of {weight.shape}")

    def read(rows: slice) -> Groups:
        scales: Floats = scale[np.arange(rows.start, rows.stop) // tall]
        if cols % wide:
            scales = np.repeat(scales, wide, axis=1)[:, :cols]
        return Groups(E4M3[weight[rows]].reshape(*scales.shape, -1), scales)

    whole = cols % 32 == 0 and wide % 32 == 0 and cols % wide == 0
    runs_as = Encoding.F8_E4M3 if whole else Encoding.F16
    return QuantisedWeight(weight.shape, f"FP8 E4M3, {form}", runs_as, parts.stored_bytes, read)


def _check(settings: Fields) -> None:
    one_of(settings, "fmt", ("e4m3",), "e4m3")
    _block(settings)


def _block(settings: Fields) -> tuple[int, int]:
    return block_of(settings, "weight_block_size") or _BLOCK


def block_of(settings: Fields, name: str) -> tuple[int, int] | None:
    """The rows and columns of the blocks that the list `name` gives; None where it gives none."""
    block = settings.get(name)
    if block is None:
        return None
    if not (isinstance(block, list) and len(block) == 2 and all(type(n) is int and n > 0 for n in block)):
        raise settings.error(name, f"must be a list of two sizes, got {block!r:.80}")
    return block[0], block[1]


def _read(parts: Parts, settings: Fields) -> QuantisedWeight:
    scale = ".weight_scale_inv" if ".weight_scale_inv" in parts else ".weight_scale"
    return float8_weight(parts, scale, _block(settings))


FP8 = Method(
    name="fp8",
    markers=(".weight_scale_inv", ".weight_scale"),
    parts=(".weight",),
    unused=(".input_scale", ".activation_scale", ".k_scale", ".v_scale", ".q_scale", ".prob_scale"),
    check=_check,
    read=_read,
)
