"""bitsandbytes: NF4 and FP4 (Dettmers et al., 2023), and LLM.int8() (Dettmers et al., 2022).

4-bit: weight holds the codes of the whole matrix, row after row, two a byte, the first in the high nibble.
quant_map says what each code stands for. absmax has a scale for each `blocksize` codes. With double
quantisation absmax is itself 8-bit codes: nested_quant_map, nested_absmax for each `nested_blocksize`, and a
nested_offset for all. The sizes are JSON in the bytes of quant_state. 8-bit: int8 `[out, in]`, times SCB /
127 a row. Source: bitsandbytes/functional.py of https://github.com/bitsandbytes-foundation/bitsandbytes.
"""

from __future__ import annotations

import numpy as np

from octavo.formats.codebook_quants import FP4_FLOATS, NF4_FLOATS
from octavo.formats.fields import Fields
from octavo.formats.groups import Floats, Groups
from octavo.formats.quantised.integer_codes import describe_groups
from octavo.formats.quantised.method import Method, Parts
from octavo.formats.safetensors import parse_json_object
from octavo.formats.tensor import Encoding
from octavo.formats.weight import QuantisedWeight

_STATES = (".weight.quant_state.bitsandbytes__nf4", ".weight.quant_state.bitsandbytes__fp4")

_TABLES = {Encoding.NF4: NF4_FLOATS, Encoding.FP4: FP4_FLOATS}


def _check(settings: Fields) -> None:
    pass


def _read(parts: Parts, settings: Fields) -> QuantisedWeight:
    return _read_8_bit(parts) if ".SCB" in parts else _read_4_bit(parts)


def _read_8_bit(parts: Parts) -> QuantisedWeight:
    weight = parts.of(".weight", ("I8",), (None, None)).values
    layout = parts[".weight_format"].values if ".weight_format" in parts else np.zeros(1)
    if layout.any():
        raise parts.error(".weight_format", "is not 0: the rows are not in order")
    scales = parts.of(".SCB", ("F32",), (len(weight),)).to_float32()[:, None] * np.float32(1 / 127)
    form = "LLM.int8, a scale a row"
    runs_as = Encoding.F16 if weight.shape[1] % 32 else Encoding.Q8_0
    return QuantisedWeight(
        weight.shape, form, runs_as, parts.stored_bytes, lambda rows: Groups(weight[rows, None], scales[rows])
    )


def _read_4_bit(parts: Parts) -> QuantisedWeight:
    suffix = next((each for each in _STATES if each in parts), _STATES[0])
    state = parts.of(suffix, ("U8",), (None,)).values
    try:
        settings = Fields(parse_json_object(state.tobytes(), parts.path))
        kind, size = settings.text("quant_type"), settings.size("blocksize")
        shape = settings.get("shape")
        if not (isinstance(shape, list) and len(shape) == 2 and all(type(n) is int and n > 0 for n in shape)):
            raise settings.error("shape", f"must be two sizes, got {shape!r:.80}")
        absmax = _absmax(parts, settings)
    except ValueError as error:
        raise parts.error(suffix, f"is not read: {error}") from None
    rows, cols = shape
    packed = parts[".weight"].values.reshape(-1).view(np.uint8)
    if packed.size != -(-rows * cols // 2):
        raise parts.error(".weight", f"has {packed.size} bytes for a matrix of {rows} x {cols}")
    if len(absmax) != -(-rows * cols // size):
        raise parts.error(
            ".weight.absmax", f"has {len(absmax)} scales for {rows * cols} codes in blocks of {size}"
        )
    table = parts.of(".weight.quant_map", ("F32",), (16,)).values

    def read(slice_of_rows: slice) -> Groups:
        first, last = slice_of_rows.start * cols, slice_of_rows.stop * cols
        own = packed[first // 2 : -(-last // 2)]
        codes = np.stack([own >> 4, own & 15], axis=-1).reshape(-1)[first % 2 :][: last - first]
        if cols % size == 0:
            scales = absmax[first // size : last // size].reshape(-1, cols // size)
        else:
            scales = absmax[np.arange(first, last) // size].reshape(-1, cols)
        return Groups(table[codes].reshape(*scales.shape, -1), scales)

    form = f"{kind.upper()}, {describe_groups(size, cols)}"
    runs_as = Encoding.F16
    if cols % size == 0 and size % 32 == 0:
        runs_as = next((each for each, own in _TABLES.items() if np.array_equal(table, own)), runs_as)
    return QuantisedWeight((rows, cols), form, runs_as, parts.stored_bytes, read)


def _absmax(parts: Parts, settings: Fields) -> Floats:
    """The scale of each block, `[blocks]`."""
    if ".weight.nested_absmax" not in parts:
        return parts.of(".weight.absmax", ("F32",), (None,)).to_float32()
    codes = parts.of(".weight.absmax", ("U8",), (None,)).values
    table = parts.of(".weight.nested_quant_map", ("F32",), (256,)).to_float32()
    size, offset = settings.size("nested_blocksize"), settings.get("nested_offset")
    if not isinstance(offset, float):
        raise settings.error("nested_offset", f"must be a number, got {offset!r:.40}")
    scales = parts.of(".weight.nested_absmax", ("F32",), (-(-len(codes) // size),)).to_float32()
    return np.take(table, codes) * np.repeat(scales, size)[: len(codes)] + np.float32(offset)


BITSANDBYTES = Method(
    name="bitsandbytes",
    markers=(".weight.absmax", ".SCB"),
    parts=(
        ".weight",
        ".weight.quant_map",
        ".weight.nested_absmax",
        ".weight.nested_quant_map",
        *_STATES,
        ".weight_format",
    ),
    check=_check,
    read=_read,
)
