"""AWQ (Lin et al., 2023) in AutoAWQ's "gemm" layout: 4-bit codes with zero points.

qweight is int32 `[in, out / 8]`. A word holds eight neighbouring outputs, in the order 0 2 4 6 1 3 5 7 from
the lowest bits. qzeros is `[groups, out / 8]`, in the same layout. scales are `[groups, out]`. Value = scale
(code - zero). Source: awq/modules/linear/gemm.py of https://github.com/casper-hansen/AutoAWQ.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from octavo.formats.fields import Fields
from octavo.formats.quantised.integer_codes import Codes, integer_weight, unpack
from octavo.formats.quantised.method import Method, Parts
from octavo.formats.weight import QuantisedWeight

_NIBBLE_OF_COLUMN = [0, 4, 1, 5, 2, 6, 3, 7]


def _check(settings: Fields) -> None:
    bits = settings.size("bits", settings.size("w_bit", 4))
    version = settings.text("version", "gemm")
    if bits != 4:
        raise settings.error("bits", f"is {bits}; octavo reads AWQ with 4")
    if version.lower() != "gemm":
        raise settings.error("version", f"is {version!r:.40}; octavo reads AWQ's gemm layout")


def _read(parts: Parts, settings: Fields) -> QuantisedWeight:
    qweight = parts.of(".qweight", ("I32",), (None, None)).values
    cols, rows = qweight.shape[0], 8 * qweight.shape[1]
    scales = parts.of(".scales", ("F16", "BF16", "F32"), (None, rows)).to_float32().T
    qzeros = parts.of(".qzeros", ("I32",), (scales.shape[1], rows // 8)).values

    def codes(rows: slice) -> Codes:
        return _columns(qweight[:, rows.start // 8 : rows.stop // 8])

    return integer_weight(parts, "AWQ", 4, (rows, cols), codes, scales, _columns(qzeros))


def _columns(words: NDArray[np.int32]) -> Codes:
    """`[n, m]` words as `[8 m, n]` codes: a row for each output column."""
    nibbles = unpack(words, 4).reshape(len(words), -1, 8)[:, :, _NIBBLE_OF_COLUMN]
    return np.ascontiguousarray(nibbles.reshape(len(words), -1).T)


AWQ = Method(
    name="awq",
    markers=(".qweight",),
    parts=(".scales", ".qzeros"),
    check=_check,
    read=_read,
)
