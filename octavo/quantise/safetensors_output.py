"""A Hugging Face directory as output: safetensors in the layout of compressed-tensors, and its config.json.

config.json is written last, so that a directory that is not whole is not taken for a model.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from octavo.formats.arranged import AnyWeight, source_of
from octavo.formats.fields import Fields
from octavo.formats.groups import Floats
from octavo.formats.quantised.compressed_tensors import COMPRESSED_TENSORS
from octavo.formats.quantised.method import Parts
from octavo.formats.raw_array import DTYPES
from octavo.formats.safetensors import SafetensorsFile
from octavo.formats.tensor import Encoding
from octavo.formats.weight import QuantisedWeight
from octavo.quantise.config import QuantiseConfig
from octavo.quantise.forms import Arrays, Float8, Packed, Piece
from octavo.quantise.layout import Layout
from octavo.quantise.partial_file import PartialFile
from octavo.quantise.scheme import Scheme, plain_scheme, scheme_of

MAX_SHARD_BYTES = 4 << 30

_FLOATS = (Encoding.F32, Encoding.F16, Encoding.BF16)


class SafetensorsOutput:
    """The directory `path`; see `octavo.quantise.output.Output`. `files` are copied into it, or written."""

    def __init__(
        self,
        path: Path,
        stored: Mapping[str, AnyWeight],
        layout: Layout,
        config: QuantiseConfig,
        hf_config: dict[str, Any],
        job: str,
    ) -> None:
        self.path = path
        self._layout = layout
        self._hf_config = hf_config
        self._linear = scheme_of(config)
        self._schemes = {name: self._scheme_of(name, weight, config) for name, weight in stored.items()}
        self._pieces = {
            name: self._schemes[name].form.pieces(weight.shape) for name, weight in stored.items()
        }
        try:
            path.mkdir(exist_ok=True)
        except OSError as error:
            raise ValueError(f"{path}: cannot write: {error.strerror}") from error
        self._shards = self._open_shards(job)

    def scheme(self, name: str) -> Scheme:
        """That of the format for the matrices of layers; the rest stays a float."""
        return self._schemes[name]

    def has(self, name: str) -> bool:
        """Whether all tensors of `name` are there."""
        return name in self._shards[name].done

    def write(self, name: str, arrays: Arrays) -> None:
        """As `Output.write`; the shape goes with packed codes."""
        pieces = self._pieces[name]
        if pieces[-1].suffix == ".weight_shape":
            bits = self._packed().bits
            rows, cols = pieces[0].shape
            arrays = [*arrays, np.array([rows, cols * 32 // bits], np.int64)]
        self._shards[name].write(name, arrays)

    def values(self, name: str) -> Floats:
        """What was written, read as any checkpoint is."""
        file = SafetensorsFile(self._shards[name].readable)
        names, order = self._tensor_names(name), self.row_order(name)
        if len(names) == 1:
            values = file.tensor(next(iter(names))).to_float32()
        else:
            module = self._layout.tensor_name(name).removesuffix(".weight")
            arrays = {piece.suffix: file.array(module + piece.suffix) for piece in self._pieces[name]}
            parts = Parts(file.path, module, arrays)
            values = COMPRESSED_TENSORS.read(parts, Fields(self._quantization_config())).to_float32()
        return values if order is None else values[np.argsort(order)]

    def row_order(self, name: str) -> NDArray[np.intp] | None:
        """As `Output.row_order`."""
        return self._layout.row_order(name, self._pieces[name][0].shape[0])

    def finish(self) -> None:
        """Name the shards, write their index, and config.json."""
        shards = list(dict.fromkeys(self._shards.values()))
        for shard in shards:
            shard.finish()
        if len(shards) > 1:
            weight_map = {
                tensor: shard.path.name
                for name, shard in self._shards.items()
                for tensor in self._tensor_names(name)
            }
            total = sum(piece.nbytes for pieces in self._pieces.values() for piece in pieces)
            index = {"metadata": {"total_size": total}, "weight_map": weight_map}
            write_json(self.path / "model.safetensors.index.json", index)
        settings = {key: value for key, value in self._hf_config.items() if "quantization" not in key}
        if not isinstance(self._linear.form, Packed | Float8):
            write_json(self.path / "config.json", settings)
            return
        write_json(self.path / "config.json", settings | {"quantization_config": self._quantization_config()})

    def _scheme_of(self, name: str, weight: AnyWeight, config: QuantiseConfig) -> Scheme:
        linear = name.startswith("layers.") and len(weight.shape) > 1
        if linear and weight.shape[-1] % self._linear.size == 0:
            return self._linear
        if config.format in ("f32", "f16", "bf16"):
            return self._linear
        if len(weight.shape) == 1 and config.method == "awq":
            return plain_scheme("F32")  # scaled, they are no numbers of 16 bits any more
        return plain_scheme(kept_dtype(weight))

    def _packed(self) -> Packed:
        assert isinstance(self._linear.form, Packed)
        return self._linear.form

    def _quantization_config(self) -> dict[str, Any]:
        """As LLM Compressor writes it: https://github.com/vllm-project/compressed-tensors."""
        ignored = [
            self._layout.tensor_name(name).removesuffix(".weight")
            for name, scheme in self._schemes.items()
            if name.startswith("layers.")
            and len(self._pieces[name][0].shape) > 1
            and scheme is not self._linear
        ]
        if isinstance(self._linear.form, Float8):
            form = "float-quantized"
            weights = {
                "num_bits": 8,
                "type": "float",
                "symmetric": True,
                "strategy": "channel",
                "dynamic": False,
            }
            inputs = {"num_bits": 8, "type": "float", "symmetric": True, "strategy": "token", "dynamic": True}
        else:
            packed = self._packed()
            form = "pack-quantized"
            weights = {
                "num_bits": packed.bits,
                "type": "int",
                "symmetric": not packed.zero_points,
                "strategy": "group",
                "group_size": packed.size,
                "dynamic": False,
            }
            inputs = None
        group = {"targets": ["Linear"], "weights": weights, "input_activations": inputs, "format": form}
        return {
            "quant_method": "compressed-tensors",
            "format": form,
            "quantization_status": "compressed",
            "ignore": ["lm_head", *ignored],
            "config_groups": {"group_0": group},
        }

    def _tensor_names(self, name: str) -> dict[str, Piece]:
        """The tensors that `name` becomes."""
        hf_name = self._layout.tensor_name(name)
        return {
            hf_name.removesuffix(".weight") + piece.suffix if piece.suffix else hf_name: piece
            for piece in self._pieces[name]
        }

    def _open_shards(self, job: str) -> dict[str, PartialFile]:
        """The file of each weight."""
        shards: list[list[str]] = [[]]
        size = 0
        for name, pieces in self._pieces.items():
            own = sum(piece.nbytes for piece in pieces)
            if shards[-1] and size + own > MAX_SHARD_BYTES:
                shards.append([])
                size = 0
            shards[-1].append(name)
            size += own
        of: dict[str, PartialFile] = {}
        for number, names in enumerate(shards, start=1):
            numbered = f"model-{number:05}-of-{len(shards):05}.safetensors"
            file = self.path / ("model.safetensors" if len(shards) == 1 else numbered)
            of |= dict.fromkeys(names, self._open_shard(file, names, job))
        return of

    def _open_shard(self, file: Path, names: list[str], job: str) -> PartialFile:
        header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        tensors = [
            (name, number, tensor, piece)
            for name in names
            for number, (tensor, piece) in enumerate(self._tensor_names(name).items())
        ]
        # Wide items first, as the safetensors library has them: then all lie at multiples of their size.
        tensors.sort(key=lambda each: -np.dtype(DTYPES[each[3].dtype]).itemsize)
        places: dict[tuple[str, int], tuple[int, int]] = {}
        position = 0
        for name, number, tensor, piece in tensors:
            offsets = [position, position + piece.nbytes]
            header[tensor] = {"dtype": piece.dtype, "shape": list(piece.shape), "data_offsets": offsets}
            places[name, number] = (position, piece.nbytes)
            position = offsets[1]
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        head = len(text).to_bytes(8, "little") + text
        spans: dict[str, list[tuple[int, int]]] = {name: [] for name in names}
        for (name, _), (start, size) in sorted(places.items(), key=lambda each: each[0][1]):
            spans[name].append((len(head) + start, size))
        return PartialFile(file, head, spans, len(head) + position, job)


def kept_dtype(weight: AnyWeight) -> str:
    """What a weight that is not rounded is written as: as stored, or where it is quantised F16."""
    weight = source_of(weight)
    if isinstance(weight, QuantisedWeight) or weight.encoding not in _FLOATS:
        return "F16"
    return str(weight.encoding.value)


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write `value` to `path`, whole or not at all."""
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    part.replace(path)
