"""A Hugging Face model directory: config.json and safetensors weights, in one file or in indexed shards.

A safetensors file is a length, a JSON header of (dtype, shape, byte range) by name, and the bytes. Every
number of it is checked against the file before use; shard names cannot leave the directory.
Source: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import json
import math
import mmap
import os
from collections.abc import KeysView
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np

from octavo.formats.inside import file_inside, is_file_name
from octavo.formats.mapped import map_file
from octavo.formats.raw_array import DTYPES, RawArray
from octavo.formats.tensor import Encoding, Tensor
from octavo.formats.weight import Weight

MAX_JSON_BYTES = 100 << 20
"""Largest JSON that is read: the bound of the safetensors library for a header."""

_SINGLE, _INDEX = "model.safetensors", "model.safetensors.index.json"


class SafetensorsFile:
    """A mapped safetensors file. Raises ValueError, of one line and naming the file, when it is not sound."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._map: mmap.mmap = map_file(path)
        length = int.from_bytes(self._map[:8], "little")
        self._start = 8 + length
        if len(self._map) < 8 or length > min(len(self._map) - 8, MAX_JSON_BYTES):
            raise ValueError(f"{path}: the file ends inside its header; is the download complete?")
        self._header = parse_json_object(self._map[8 : self._start], path)
        metadata = self._header.pop("__metadata__", None)
        self.metadata: dict[str, str] = {}
        if isinstance(metadata, dict):
            self.metadata = {key: value for key, value in metadata.items() if isinstance(value, str)}

    @property
    def tensors(self) -> KeysView[str]:
        """The tensors' names."""
        return self._header.keys()

    def tensor(self, name: str) -> Tensor:
        """The tensor `name`, a view of the mapped file.

        Raises ValueError when the file has none of that name, or its dtype is not F32, F16 or BF16.
        """
        dtype, shape, begin, end = self._entry(name)
        if dtype not in ("F32", "F16", "BF16"):
            raise ValueError(
                f"{self.path}: tensor {name!r} has dtype {dtype!r:.40}; octavo reads F32, F16 and BF16"
            )
        if not shape or 0 in shape:
            raise ValueError(f"{self.path}: tensor {name!r} has shape {shape!r:.80}")
        return Tensor(shape, Encoding[dtype], np.frombuffer(self._map, np.uint8, end - begin, begin))

    def array(self, name: str) -> RawArray:
        """The tensor `name` in its own dtype, a view of the mapped file; raises ValueError as `tensor`."""
        dtype, shape, begin, end = self._entry(name)
        numpy_type = np.dtype(DTYPES[dtype])
        values = np.frombuffer(self._map, numpy_type, (end - begin) // numpy_type.itemsize, begin)
        return RawArray(dtype, values.reshape(shape))

    def _entry(self, name: str) -> tuple[str, tuple[int, ...], int, int]:
        """The dtype, shape, and first and last byte in the file of `name`, once they are known to agree."""
        entry = self._header.get(name)
        if not isinstance(entry, dict):
            raise ValueError(f"{self.path}: there is no tensor {name!r}")
        dtype, shape, offsets = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
        if not isinstance(dtype, str) or dtype not in DTYPES:
            raise ValueError(
                f"{self.path}: tensor {name!r} has dtype {dtype!r:.40}; octavo reads {', '.join(DTYPES)}"
            )
        if (
            not (_are_sizes(shape) and len(shape) <= 8)
            or not (_are_sizes(offsets) and len(offsets) == 2)
        ):  # fmt: skip
            raise ValueError(f"{self.path}: tensor {name!r} has shape {shape!r:.80} at bytes {offsets!r:.80}")
        begin, end = offsets
        if end - begin != math.prod(shape) * np.dtype(DTYPES[dtype]).itemsize:
            raise ValueError(
                f"{self.path}: tensor {name!r} of shape {shape!r:.80} does not take {end - begin} bytes"
            )
        if self._start + end > len(self._map):
            raise ValueError(f"{self.path}: tensor {name!r} goes past the end; is the download complete?")
        return dtype, tuple(shape), self._start + begin, self._start + end


class SafetensorsDirectory:
    """A Hugging Face model directory: its `config`, `generation_config`, and its tensors on demand.

    Nothing but config.json is read before the first tensor is asked for. Raises ValueError, of one line and
    naming the file, when something is missing or not sound.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = read_json(file_inside(path, "config.json"))
        generation = file_inside(path, "generation_config.json")
        self.generation_config = read_json(generation) if generation.is_file() else {}
        self._files: dict[str, SafetensorsFile] | None = None

    @property
    def tensors(self) -> KeysView[str]:
        """The tensors' names, over all shards."""
        return self._by_name().keys()

    @property
    def files(self) -> list[Path]:
        """The files that say what the weights are."""
        shards = {file.path for file in self._by_name().values()}
        return [*sorted(shards), *sorted(self.path.glob("*config.json"))]

    def tensor(self, name: str) -> Weight:
        """The tensor `name`, a view of its mapped shard. Raises ValueError as `SafetensorsFile.tensor`."""
        return self._file_of(name).tensor(name)

    def array(self, name: str) -> RawArray:
        """The tensor `name` in its own dtype. Raises ValueError as `SafetensorsFile.array`."""
        return self._file_of(name).array(name)

    def metadata(self, name: str) -> dict[str, str]:
        """What the file of the tensor `name` says besides. Raises ValueError where there is none."""
        return self._file_of(name).metadata

    def _file_of(self, name: str) -> SafetensorsFile:
        file = self._by_name().get(name)
        if file is None:
            raise ValueError(f"{self.path}: there is no tensor {name!r}")
        return file

    def _by_name(self) -> dict[str, SafetensorsFile]:
        """The file of each tensor."""
        if self._files is None:
            self._files = self._open()
        return self._files

    def _open(self) -> dict[str, SafetensorsFile]:
        if (self.path / _SINGLE).is_file():
            file = SafetensorsFile(file_inside(self.path, _SINGLE))
            return dict.fromkeys(file.tensors, file)
        index_path = file_inside(self.path, _INDEX)
        if not index_path.is_file():
            raise ValueError(f"{self.path}: has neither {_SINGLE} nor {_INDEX}; other formats are not read")
        weight_map = read_json(index_path).get("weight_map")
        if not isinstance(weight_map, dict):
            raise ValueError(f"{index_path}: weight_map must be an object")

        files: dict[str, SafetensorsFile] = {}
        shards = dict.fromkeys(weight_map.values()) if all(map(is_file_name, weight_map.values())) else None
        if shards is None:
            raise ValueError(f"{index_path}: weight_map must name files of its own directory")
        for shard in shards:
            file = SafetensorsFile(file_inside(self.path, shard))
            for name in file.tensors:
                if name in files:
                    raise ValueError(f"{file.path}: tensor {name!r} is in {files[name].path.name} too")
                files[name] = file
        for name, shard in weight_map.items():
            if name not in files or files[name].path.name != shard:
                raise ValueError(f"{index_path}: tensor {name!r} is not in {shard!r}")
        return files


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in the file `path`. Raises ValueError naming it when there is none."""
    try:
        with path.open("rb") as file:
            # A buffer of the most that is allowed would be taken before the first byte is read.
            text = file.read(min(os.fstat(file.fileno()).st_size, MAX_JSON_BYTES) + 1)
    except OSError as error:
        raise ValueError(f"{path}: cannot read: {error.strerror}") from error
    if len(text) > MAX_JSON_BYTES:
        raise ValueError(f"{path}: larger than {MAX_JSON_BYTES} bytes")
    return parse_json_object(text, path)


def parse_json_object(text: bytes, path: Path) -> dict[str, Any]:
    """The JSON object in `text`. Raises ValueError naming `path` when it is none, or has a key twice."""
    try:
        value = json.loads(text, object_pairs_hook=_object)
    except RecursionError:
        raise ValueError(f"{path}: its JSON is nested too deeply") from None
    except ValueError as error:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        raise ValueError(f"{path}: not valid JSON: {' '.join(str(error).split())[:200]}") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path}: must hold a JSON object")
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen = set[str]()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"key {twice!r:.200} is there twice")
    return result


def _are_sizes(values: object) -> TypeGuard[list[int]]:
    return isinstance(values, list) and all(type(each) is int and 0 <= each < 1 << 63 for each in values)
