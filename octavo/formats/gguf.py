"""GGUF, llama.cpp's checkpoint, versions 2 and 3, little-endian: one file, or parts of one.

Layout: magic, version, counts, metadata pairs, tensor infos, padding, tensor data. Everything that the file
says about itself (counts, lengths, offsets) is checked against its size before it is used. So a truncated or
hostile file gives a ValueError of one line, and takes memory in proportion to the file. Source:
https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import math
import struct
from collections.abc import KeysView
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from octavo.formats.gguf_split import open_parts
from octavo.formats.mapped import map_file
from octavo.formats.tensor import Encoding, Tensor

MAX_ENTRIES = 1 << 16
"""Most metadata pairs, and most tensors, that a file may hold."""

_TYPE_NAMES = (
    "F32 F16 Q4_0 Q4_1 Q4_2 Q4_3 Q5_0 Q5_1 Q8_0 Q8_1 Q2_K Q3_K Q4_K Q5_K Q6_K Q8_K IQ2_XXS IQ2_XS IQ3_XXS "
    "IQ1_S IQ4_NL IQ3_S IQ2_S IQ4_XS I8 I16 I32 I64 F64 IQ1_M BF16 Q4_0_4_4 Q4_0_4_8 Q4_0_8_8 TQ1_0 TQ2_0 "
    "IQ4_NL_4_4 IQ4_NL_4_8 IQ4_NL_8_8 MXFP4 NVFP4"
)
"""ggml's tensor types in the order of their numbers."""

_TYPES = _TYPE_NAMES.split()

TYPE_NUMBERS = {name: number for number, name in enumerate(_TYPES)}

_ENCODINGS = {number: Encoding[name] for number, name in enumerate(_TYPES) if name in Encoding.__members__}

_BOOL, _STRING, _ARRAY = 7, 8, 9
_SCALARS = {
    kind: struct.Struct("<" + code) for kind, code in (*enumerate("BbHhIif?"), *enumerate("Qqd", start=10))
}
_U32, _U64 = struct.Struct("<I"), struct.Struct("<Q")


@dataclass(frozen=True, slots=True)
class _TensorInfo:
    shape: tuple[int, ...]  # rows first: the reverse of the file's order
    type: int
    start: int  # of its bytes in the file


class GGUFFile:
    """A GGUF checkpoint: its metadata, and its tensors on demand from the mapped file, or files.

    `path` may be any part of a split one. `metadata` values are str, int, float, bool, list[str], or a NumPy
    array for arrays of numbers. Raises ValueError, of one line and naming the file, when it is not sound.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        parts = open_parts(path, GGUFPart)
        self.metadata = parts[0].metadata
        self._first = parts[0]
        self._part_of = {name: part for part in parts for name in part.tensors}

    @property
    def tensors(self) -> KeysView[str]:
        """The tensors' names, in the file's order."""
        return self._part_of.keys()

    @property
    def files(self) -> list[Path]:
        """The files that it is made of."""
        return sorted({part.path for part in self._part_of.values()})

    def tensor(self, name: str) -> Tensor:
        """The tensor `name`, a view of the mapped file; its shape has rows first, as in PyTorch.

        Raises ValueError when the file has none of that name or its type is not one that octavo reads.
        """
        part = self._part_of.get(name)
        if part is None:
            raise ValueError(f"{self.path}: there is no tensor {name!r:.200}")
        return part.tensor(name)

    def raw_pair(self, key: str) -> bytes:
        """The metadata `key` and its value as they are in the file."""
        return self._first.raw_pair(key)


class GGUFPart:
    """One mapped GGUF file. Raises ValueError, of one line and naming the file, when it is not sound."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._map = map_file(path)
        self._position = 0
        self._pairs: dict[str, slice] = {}
        try:
            self.metadata, self._tensors = self._parse()
        except struct.error:
            raise self._error("the file ends inside its header; is the download complete?") from None
        except UnicodeDecodeError as error:
            raise self._error(f"a string is not UTF-8 ({error.reason})") from None

    @property
    def tensors(self) -> KeysView[str]:
        """The tensors' names, in the file's order."""
        return self._tensors.keys()

    def tensor(self, name: str) -> Tensor:
        """The tensor `name` of this file, as `GGUFFile.tensor`."""
        info = self._tensors[name]
        encoding = _ENCODINGS.get(info.type)
        if encoding is None:
            known = ", ".join(each.value for each in _ENCODINGS.values())
            type_name = _TYPES[info.type] if info.type < len(_TYPES) else f"number {info.type}"
            raise self._error(f"tensor {name!r:.200} has type {type_name}; octavo reads {known}")
        size = _tensor_bytes(info.shape, encoding)
        return Tensor(info.shape, encoding, np.frombuffer(self._map, np.uint8, size, info.start))

    def raw_pair(self, key: str) -> bytes:
        """The metadata `key` and its value as they are in the file."""
        return bytes(self._map[self._pairs[key]])

    def _parse(self) -> tuple[dict[str, Any], dict[str, _TensorInfo]]:
        if self._map[:4] != b"GGUF":
            raise self._error("not a GGUF file: it does not begin with 'GGUF'")
        self._position = 4
        version = self._number(_U32)
        if version not in (2, 3):
            swapped = " (big-endian?)" if version & 0xFFFF == 0 else ""
            raise self._error(f"GGUF version {version}{swapped}; octavo reads 2 and 3, little-endian")
        num_tensors, num_pairs = self._number(_U64), self._number(_U64)
        for count, what in ((num_tensors, "tensors"), (num_pairs, "metadata pairs")):
            if count > MAX_ENTRIES:
                raise self._error(f"{count} {what}; at most {MAX_ENTRIES} are allowed")

        metadata: dict[str, Any] = {}
        for _ in range(num_pairs):
            start = self._position
            key = self._string()
            if key in metadata:
                raise self._error(f"metadata key {key!r:.200} is there twice")
            metadata[key] = self._value(key, self._number(_U32))
            self._pairs[key] = slice(start, self._position)

        alignment = metadata.get("general.alignment", 32)
        if type(alignment) is not int or alignment < 8 or alignment & (alignment - 1):
            raise self._error(f"general.alignment must be a power of two from 8, got {alignment!r:.80}")
        tensors: dict[str, _TensorInfo] = {}
        for _ in range(num_tensors):
            name = self._string()
            if name in tensors:
                raise self._error(f"tensor {name!r:.200} is there twice")
            tensors[name] = self._tensor_info(name, alignment)
        data_start = -(-self._position // alignment) * alignment
        return metadata, {name: self._located(name, info, data_start) for name, info in tensors.items()}

    def _tensor_info(self, name: str, alignment: int) -> _TensorInfo:
        num_dims = self._number(_U32)
        if not 1 <= num_dims <= 4:
            raise self._error(f"tensor {name!r:.200} has {num_dims} dimensions; 1 to 4 are allowed")
        shape = tuple(self._number(_U64) for _ in range(num_dims))[::-1]
        kind, offset = self._number(_U32), self._number(_U64)
        if offset % alignment:
            raise self._error(f"tensor {name!r:.200} is at offset {offset}, not a multiple of {alignment}")
        return _TensorInfo(shape, kind, offset)

    def _located(self, name: str, info: _TensorInfo, data_start: int) -> _TensorInfo:
        """`info` with `start` counted from the file's beginning, once its bytes are known to be there."""
        start, encoding, size = data_start + info.start, _ENCODINGS.get(info.type), 0
        if 0 in info.shape:
            raise self._error(f"tensor {name!r:.200} of shape {info.shape} is empty")
        if encoding is not None:
            if info.shape[-1] % encoding.group_size:
                raise self._error(
                    f"tensor {name!r:.200}: rows of {info.shape[-1]} are not whole {encoding.value} groups"
                )
            size = _tensor_bytes(info.shape, encoding)
        if start + size > len(self._map):
            raise self._error(
                f"tensor {name!r:.200} ends at byte {start + size} but the file has {len(self._map)}; "
                "is the download complete?"
            )
        return _TensorInfo(info.shape, info.type, start)

    def _value(self, key: str, kind: int) -> Any:
        if scalar := _SCALARS.get(kind):
            return self._number(scalar)
        if kind == _STRING:
            return self._string()
        if kind != _ARRAY:
            raise self._error(f"metadata {key!r:.200} has unknown type {kind}")
        kind, count = self._number(_U32), self._number(_U64)
        if kind == _STRING:
            return self._strings(count)
        if kind not in _SCALARS:
            raise self._error(f"metadata {key!r:.200} is an array of unsupported type {kind}")
        item = _SCALARS[kind]
        if count * item.size > len(self._map) - self._position:
            raise self._error(f"metadata {key!r:.200} has {count} items, more than the file holds")
        array = np.frombuffer(
            self._map, np.dtype("u1" if kind == _BOOL else item.format), count, self._position
        )
        self._position += array.nbytes
        return array != 0 if kind == _BOOL else array.copy()

    def _number(self, scalar: struct.Struct) -> Any:
        (value,) = scalar.unpack_from(self._map, self._position)
        self._position += scalar.size
        return value

    def _string(self) -> str:
        return self._strings(1)[0]

    def _strings(self, count: int) -> list[str]:
        """The next `count` strings: the hot loop of opening a file, with some 100,000 tokens and merges."""
        data, position, unpack, strings = self._map, self._position, _U64.unpack_from, list[str]()
        append = strings.append
        for _ in range(count):
            end = position + 8 + unpack(data, position)[0]
            append(str(data[position + 8 : end], "utf-8"))
            position = end
        if position > len(data):
            raise self._error("a string goes past the end of the file; is the download complete?")
        self._position = position
        return strings

    def _error(self, message: str) -> ValueError:
        return ValueError(f"{self.path}: {message}")


def _tensor_bytes(shape: tuple[int, ...], encoding: Encoding) -> int:
    return math.prod(shape) // encoding.group_size * encoding.group_bytes
