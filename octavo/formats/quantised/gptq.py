"""GPTQ (Frantar et al., 2022) in AutoGPTQ's layout: codes of 4 or 8 bits with zero points.

qweight is int32 `[in * bits / 32, out]`: neighbouring inputs in a word, the first in the lowest bits. qzeros,
`[groups, out * bits / 32]`, pack neighbouring outputs, and in the first version of the format are one less
than the zero point. scales are `[groups, out]`. g_idx, `[in]`, is the group of each input: with activation
order (desc_act) groups are not neighbours. Value = scale (code - zero).
Source: auto_gptq/nn_modules/qlinear of https://github.com/AutoGPTQ/AutoGPTQ.
"""

from __future__ import annotations

import numpy as np

from octavo.formats.fields import Fields
from octavo.formats.quantised.integer_codes import Codes, integer_weight, unpack
from octavo.formats.quantised.method import Method, Parts, one_of
from octavo.formats.weight import QuantisedWeight


def _check(settings: Fields) -> None:
    one_of(settings, "checkpoint_format", ("gptq", "gptq_v2"), "gptq")
    one_of(settings, "is_marlin_format", (False,), False)


def _read(parts: Parts, settings: Fields) -> QuantisedWeight:
    qweight = parts.of(".qweight", ("I32",), (None, None)).values
    rows = qweight.shape[1]
    scales = parts.of(".scales", ("F16", "BF16", "F32"), (None, rows)).to_float32().T
    qzeros = parts.of(".qzeros", ("I32",), (scales.shape[1], None)).values
    bits = 32 * qzeros.shape[1] // rows
    if bits not in (4, 8) or bits * rows != 32 * qzeros.shape[1]:
        raise parts.error(
            ".qzeros", f"of shape {qzeros.shape} for {rows} outputs are not codes of 4 or 8 bits"
        )
    cols = qweight.shape[0] * 32 // bits
    zeros = unpack(qzeros, bits).astype(np.int16).T
    if settings.get("checkpoint_format") != "gptq_v2":
        zeros = zeros + np.int16(1)
    group_of = parts.of(".g_idx", ("I32",), (cols,)).values if ".g_idx" in parts else None

    def codes(rows: slice) -> Codes:
        return unpack(qweight[:, rows].T, bits)

    return integer_weight(parts, "GPTQ", bits, (rows, cols), codes, scales, zeros, group_of)


GPTQ = Method(
    name="gptq",
    markers=(".qweight",),
    parts=(".scales", ".qzeros", ".g_idx"),
    check=_check,
    read=_read,
)
