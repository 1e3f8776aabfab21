"""A GGUF file as output. Source: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from octavo.formats.arranged import AnyWeight
from octavo.formats.gguf import TYPE_NUMBERS, GGUFFile
from octavo.formats.groups import Floats
from octavo.quantise.config import QuantiseConfig
from octavo.quantise.forms import Arrays, Blocks, Plain
from octavo.quantise.layout import Layout
from octavo.quantise.partial_file import PartialFile
from octavo.quantise.scheme import Q8_0, Scheme, plain_scheme, scheme_of

ALIGNMENT = 32

FILE_TYPES = {"F32": 0, "F16": 1, "Q4_0": 2, "Q4_1": 3, "Q8_0": 7, "BF16": 32}
"""llama.cpp's numbers (enum llama_ftype) for what most of a file is in."""


class GGUFOutput:
    """The file `path`; see `octavo.quantise.output.Output`.

    `metadata` are encoded pairs, `vectors` more tensors than `stored` has, by the names of the file.
    """

    def __init__(
        self,
        path: Path,
        stored: Mapping[str, AnyWeight],
        layout: Layout,
        config: QuantiseConfig,
        metadata: Sequence[bytes],
        vectors: Mapping[str, Floats],
        job: str,
    ) -> None:
        self.path = path
        self._layout = layout
        self._num_rows = {name: weight.shape[0] for name, weight in stored.items()}
        self._linear = scheme_of(config)
        self._schemes = {name: self._scheme_of(name, weight, config) for name, weight in stored.items()}
        infos = {
            layout.tensor_name(name): (weight.shape, *self._size(name, weight))
            for name, weight in stored.items()
        }
        infos |= {name: (values.shape, "F32", values.nbytes) for name, values in vectors.items()}
        names = [*stored, *vectors]
        header = [b"GGUF", struct.pack("<IQQ", 3, len(infos), len(metadata)), *metadata]
        offsets, position = [], 0
        for name, (shape, kind, size) in infos.items():
            dims = struct.pack(f"<I{len(shape)}Q", len(shape), *shape[::-1])
            header += [_string(name), dims, struct.pack("<IQ", TYPE_NUMBERS[kind], position)]
            offsets.append((position, size))
            position += -(-size // ALIGNMENT) * ALIGNMENT
        head = b"".join(header)
        head += bytes(-len(head) % ALIGNMENT)
        spans = {
            name: [(len(head) + start, size)] for name, (start, size) in zip(names, offsets, strict=True)
        }
        self._file = PartialFile(path, head, spans, len(head) + position, job)
        for name, values in vectors.items():
            if name not in self._file.done:
                self._file.write(name, [values.astype(np.float32)])

    def scheme(self, name: str) -> Scheme:
        """That of the format for the matrices of layers, Q8_0 or the format's floats for the others."""
        return self._schemes[name]

    def has(self, name: str) -> bool:
        """Whether `name` is there."""
        return name in self._file.done

    def write(self, name: str, arrays: Arrays) -> None:
        """As `Output.write`."""
        self._file.write(name, arrays)

    def values(self, name: str) -> Floats:
        """What was written, read as any checkpoint is."""
        values = GGUFFile(self._file.readable).tensor(self._layout.tensor_name(name)).to_float32()
        order = self.row_order(name)
        return values if order is None else values[np.argsort(order)]

    def row_order(self, name: str) -> NDArray[np.intp] | None:
        """As `Output.row_order`."""
        return self._layout.row_order(name, self._num_rows[name])

    def finish(self) -> None:
        """Name the file."""
        self._file.finish()

    def _scheme_of(self, name: str, weight: AnyWeight, config: QuantiseConfig) -> Scheme:
        if len(weight.shape) == 1:
            return plain_scheme("F32")
        quantised = isinstance(self._linear.form, Blocks)
        wanted = self._linear if name.startswith("layers.") or not quantised else Q8_0
        return wanted if weight.shape[-1] % wanted.size == 0 else plain_scheme("F16")

    def _size(self, name: str, weight: AnyWeight) -> tuple[str, int]:
        """The type and the bytes of a tensor."""
        form = self._schemes[name].form
        (piece,) = form.pieces(weight.shape)
        if isinstance(form, Plain):
            return form.dtype, piece.nbytes
        assert isinstance(form, Blocks)
        return str(form.encoding.value), piece.nbytes


def encode_pair(key: str, value: Any) -> bytes:
    """A metadata pair. Integers are uint32, and int32 in lists; floats are float32."""
    return _string(key) + _value(value)


def _value(value: Any) -> bytes:
    match value:
        case bool():
            return struct.pack("<I?", 7, value)
        case int():
            return struct.pack("<II", 4, value)
        case float():
            return struct.pack("<If", 6, value)
        case str():
            return struct.pack("<I", 8) + _string(value)
        case list() if value and isinstance(value[0], str):
            return struct.pack("<IIQ", 9, 8, len(value)) + b"".join(map(_string, value))
        case list():
            return struct.pack("<IIQ", 9, 5, len(value)) + np.array(value, "<i4").tobytes()
    raise TypeError(type(value))


def _string(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data
