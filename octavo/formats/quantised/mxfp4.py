"""MXFP4: 4-bit floats (E2M1) in groups of 32 with a power of two as their scale.

As OpenAI's gpt-oss has it: NAME_blocks, uint8 `[..., in / 32, 16]`, and NAME_scales, uint8 `[..., in / 32]`,
make up the weight NAME, `[..., in]`. Of the two codes in a byte the first is in the low nibble.
Sources: OCP Microscaling Formats (MX) Specification 1.0; transformers/integrations/mxfp4.py.
"""

from __future__ import annotations

from math import prod

import numpy as np

from octavo.formats.codebook_quants import MXFP4_TABLE, half_power_of_two
from octavo.formats.fields import Fields
from octavo.formats.groups import Groups
from octavo.formats.quantised.method import Method, Parts
from octavo.formats.tensor import Encoding
from octavo.formats.weight import QuantisedWeight


def mxfp4_weight(parts: Parts, blocks_suffix: str, scales_suffix: str) -> QuantisedWeight:
    """The weight of 16 bytes for each scale."""
    scales = parts[scales_suffix]
    blocks = parts[blocks_suffix]
    if (
        blocks.dtype != "U8"
        or scales.dtype not in ("U8", "F8_E8M0")
        or len(scales.shape) < 2
        or scales.values.size == 0
        or blocks.values.size != 16 * scales.values.size
        or blocks.shape[: len(scales.shape) - 1] != scales.shape[:-1]
    ):
        raise parts.error(
            blocks_suffix, f"of shape {blocks.shape} does not have 16 bytes for each of {scales.shape} scales"
        )
    shape = (*scales.shape[:-1], 32 * scales.shape[-1])
    flat = blocks.values.reshape(prod(shape[:-1]), -1, 16)
    exponents = scales.values.reshape(prod(shape[:-1]), -1)

    def read(rows: slice) -> Groups:
        own = flat[rows]
        codes = np.stack([own & 15, own >> 4], axis=-1).reshape(*own.shape[:2], 32)
        return Groups(MXFP4_TABLE[codes], half_power_of_two(exponents[rows]))

    return QuantisedWeight(shape, "MXFP4", Encoding.MXFP4, parts.stored_bytes, read)


def _check(settings: Fields) -> None:
    pass


def _read(parts: Parts, settings: Fields) -> QuantisedWeight:
    return mxfp4_weight(parts, "_blocks", "_scales")


MXFP4 = Method(
    name="mxfp4",
    markers=("_blocks",),
    parts=("_scales",),
    check=_check,
    read=_read,
    weight_suffix="",
)
