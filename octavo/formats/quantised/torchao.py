"""torchao's tensor subclasses, as torchao writes them to safetensors since version 0.14.

The weight NAME.weight is NAME._weight_qdata, NAME._weight_scale and perhaps NAME._weight_zero_point, and the
file's metadata has, under its name, JSON of the subclass that they make up:

IntxUnpackedToInt8Tensor, Int8Tensor  qdata int8 `[out, in]`, scale and zero_point `[out, groups]`;
                                      value = scale (code - zero)
Int4Tensor                            qdata `[out, in / 2]`, two codes a byte, the first in the low nibble,
                                      scale and zero_point `[groups, out]`; value = scale code + zero
Float8Tensor                          qdata float8 (E4M3) `[out, in]`, scale one number or one a row

Other subclasses are in the order of one GPU kernel. Sources: torchao/prototype/safetensors and
torchao/quantization/quantize_/workflows of https://github.com/pytorch/ao.
"""

from __future__ import annotations

import numpy as np

from octavo.formats.fields import Fields
from octavo.formats.groups import Groups
from octavo.formats.quantised.float8 import float8_weight
from octavo.formats.quantised.integer_codes import Codes, describe_groups, integer_weight
from octavo.formats.quantised.method import Method, Parts
from octavo.formats.safetensors import parse_json_object
from octavo.formats.tensor import Encoding
from octavo.formats.weight import QuantisedWeight

_FLOATS = ("F32", "F16", "BF16")
_QDATA, _SCALE, _ZERO, _PRE_SCALE = (
    f"._weight_{part}" for part in ("qdata", "scale", "zero_point", "act_pre_scale")
)


def _check(settings: Fields) -> None:
    pass


def _read(parts: Parts, settings: Fields) -> QuantisedWeight:
    if _PRE_SCALE in parts:
        raise parts.error(_PRE_SCALE, "scales activations, which octavo does not do for torchao")
    if not parts.described:
        raise parts.error(_QDATA, "is of a type that the file's metadata do not name; torchao before 0.14?")
    described = Fields(parse_json_object(parts.described.encode(), parts.path))
    match kind := described.text("_type", ""):
        case "IntxUnpackedToInt8Tensor":
            name = described.group("_data").group("target_dtype").text("_data", "")
            return _integers(parts, 4 if name == "int4" else 8)
        case "Int8Tensor":
            return _integers(parts, 8)
        case "Int4Tensor":
            return _int4(parts)
        case "Float8Tensor":
            return float8_weight(parts, _SCALE, (1, 1), _QDATA)
    raise parts.error(
        _QDATA,
        f"is of torchao's {kind or 'unnamed type'!r:.60}; octavo reads IntxUnpackedToInt8Tensor, Int8Tensor, "
        "Int4Tensor (int4_packing_format='plain') and Float8Tensor",
    )


def _integers(parts: Parts, bits: int) -> QuantisedWeight:
    qdata = parts.of(_QDATA, ("I8",), (None, None)).values
    rows, cols = qdata.shape
    scales = parts.of(_SCALE, _FLOATS, (rows, None)).to_float32()
    half = 1 << (bits - 1)
    zeros = None
    if _ZERO in parts:
        stored = parts.of(_ZERO, ("I8", *_FLOATS), scales.shape).to_float32()
        if not (np.rint(stored) == stored).all() or np.abs(stored).max() > 128:
            raise parts.error(_ZERO, "has zero points that are no codes")
        zeros = stored.astype(np.int16) + half

    def codes(own: slice) -> Codes:
        unsigned: Codes = qdata[own].view(np.uint8) + np.uint8(half)  # modulo 256
        return unsigned & np.uint8(2 * half - 1)

    return integer_weight(parts, "torchao", bits, (rows, cols), codes, scales, zeros)


def _int4(parts: Parts) -> QuantisedWeight:
    packed = parts.of(_QDATA, ("I8", "U8"), (None, None)).values.view(np.uint8)
    rows, cols = packed.shape[0], 2 * packed.shape[1]
    scales = parts.of(_SCALE, _FLOATS, (None, rows)).to_float32().T
    offsets = parts.of(_ZERO, _FLOATS, (scales.shape[1], rows)).to_float32().T
    size = cols // scales.shape[1]
    if size * scales.shape[1] != cols:
        raise parts.error(
            _SCALE, f"has {scales.shape[1]} groups in rows of {cols}, which do not divide into them"
        )
    # Codes are -8 to 7; as 0 to 15 they want a minimum that is eight steps lower.
    minimums = np.ascontiguousarray(offsets - 8 * scales)
    symmetric = not offsets.any()

    def read(own: slice) -> Groups:
        codes = np.stack([packed[own] & 15, packed[own] >> 4], axis=-1) ^ np.uint8(8)
        codes = codes.reshape(len(codes), -1, size)
        if symmetric:
            return Groups(codes.view(np.int8) - np.int8(8), scales[own])
        return Groups(codes, scales[own], minimums=minimums[own])

    form = f"torchao int4, {describe_groups(size, cols)}"
    runs_as = Encoding.F16 if size % 32 else Encoding.Q4_0 if symmetric else Encoding.Q4_1
    return QuantisedWeight((rows, cols), form, runs_as, parts.stored_bytes, read)


TORCHAO = Method(
    name="torchao",
    markers=(_QDATA,),
    parts=(_SCALE, _ZERO, _PRE_SCALE),
    unused=("._weight_act_quant_scale", "._weight_act_quant_zero_point"),
    check=_check,
    read=_read,
)
