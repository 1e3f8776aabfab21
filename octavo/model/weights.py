"""A model's weights: which its Program reads, and how they are taken from a checkpoint."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import prod
from weakref import WeakValueDictionary

import numpy as np

from octavo.formats.arranged import AnyWeight, arrange, source_of
from octavo.formats.gguf import GGUFFile
from octavo.formats.normalise import normalise, packed_bytes, runs_as
from octavo.formats.panels import PANEL_ROWS, PanelRows
from octavo.formats.safetensors import SafetensorsDirectory
from octavo.formats.tensor import Encoding, Tensor
from octavo.formats.weight import QuantisedWeight, drop_source
from octavo.model.decoder import trace
from octavo.model.families.registry import family_of
from octavo.model.row_orders import Rows
from octavo.model.spec import ModelSpec
from octavo.model.weight_map import WeightMap

Shape = tuple[int, ...]


def stored_shapes(spec: ModelSpec) -> dict[str, Shape]:
    """The shape of each weight that a checkpoint of `spec` must hold, by canonical name.

    They are those of its Program, but for a head that is the embedding. What belongs to no layer comes first.
    """
    shapes = trace(spec).weight_shapes
    if spec.head.tied:
        del shapes["lm_head.weight"]
    return dict(sorted(shapes.items(), key=lambda each: each[0].startswith("layers.")))


def stored_weights(checkpoint: GGUFFile | SafetensorsDirectory, spec: ModelSpec) -> dict[str, AnyWeight]:
    """Every weight of `spec` by canonical name: rows in the model's order, values as the checkpoint has them.

    Raises ValueError naming file and tensor for one that is missing, has another shape, or that the model
    would ignore.
    """
    places, shapes = family_of(checkpoint).weight_map(checkpoint), stored_shapes(spec)
    tensors: dict[str, dict[str, Shape]] = {}
    for name, shape in shapes.items():
        tensors.setdefault(places.tensor_name(name), {})[name] = shape
    _check_names(checkpoint, spec, places, tensors.keys() | {places.tensor_name("lm_head.weight")})
    found: dict[str, AnyWeight] = {}
    for tensor, parts in tensors.items():
        try:
            found |= _parts(checkpoint, spec, places, tensor, parts)
        except _Unfit as error:
            raise ValueError(f"{checkpoint.path}: tensor {tensor!r} {error}") from None
    return {name: found[name] for name in shapes}


class _Unfit(Exception):
    """What a tensor is that it should not be."""


def _parts(
    checkpoint: GGUFFile | SafetensorsDirectory,
    spec: ModelSpec,
    places: WeightMap,
    tensor_name: str,
    parts: Mapping[str, Shape],
) -> dict[str, AnyWeight]:
    """The weights that a tensor holds, usually one: each is some of its rows."""
    tensor = checkpoint.tensor(tensor_name)
    (cols,) = {shape[1:] for shape in parts.values()}
    expected = (sum(shape[0] for shape in parts.values()), *cols)
    transpose = len(expected) > 1 and any(places.stored(name).transpose for name in parts)
    if tensor.shape != (expected[::-1] if transpose else expected):
        raise _Unfit(f"has shape {tensor.shape}, not {expected[::-1] if transpose else expected}")
    rows = {name: rows_in_tensor(places, spec, name, shape[0]) for name, shape in parts.items()}
    orders = [order for order in rows.values() if order is not None]
    if orders and not np.array_equal(np.sort(np.concatenate(orders)), np.arange(expected[0])):
        raise _Unfit(f"has {expected[0]} rows, and some belong to none of {', '.join(parts)}")
    found = {}
    for name in parts:
        place = places.stored(name)
        plus = place.plus if name.endswith(".weight") else 0.0
        try:
            found[name] = arrange(tensor, rows[name], transpose=transpose, plus=plus)
        except ValueError as error:
            raise _Unfit(str(error)) from None
    return found


def rows_in_tensor(places: WeightMap, spec: ModelSpec, name: str, count: int) -> Rows | None:
    """Which rows of its tensor the `count` rows of the weight `name` are; None for all of them in order."""
    order = places.stored(name).rows
    if order is None:
        return None
    stored = int(name.split(".")[1])
    layers = (number for number in range(spec.num_layers) if spec.stored_layer(number) == stored)
    return order(spec, next(layers), count)


class ModelWeights(Mapping[str, Tensor]):
    """Every weight of a spec by canonical name, in the form that it runs in, made when it is asked for.

    Matrices stay as stored, in the mapped file, where the backends run what they are stored in; others are
    brought into a form that they do run. With `dtype` "float32" all become exactly that; vectors always do.
    Nothing that was made is kept: of a model whose weights are taken one after the other, only one is there
    twice at a time. Tied embeddings are one Tensor under both names while anybody has it, unless `stored` has
    a head. `tables` are those of `ModelSpec.tables`. Safe to use from several threads.
    """

    def __init__(self, stored: Mapping[str, AnyWeight], dtype: str, tables: Mapping[str, Tensor]) -> None:
        self._stored = stored
        self._dtype = dtype
        self._tables = tables
        self._tied = "lm_head.weight" not in stored
        self._names = [*stored, *(["lm_head.weight"] if self._tied else []), *tables]
        self._made: WeakValueDictionary[str, Tensor] = WeakValueDictionary()

    @property
    def num_bytes(self) -> int:
        """About what they take packed; nothing is made for it."""
        return sum(
            packed_bytes(
                Encoding.F32 if self._dtype == "float32" else runs_as(weight),
                prod(weight.shape[:-1]),
                weight.shape[-1],
            )
            for weight in self._stored.values()
            if len(weight.shape) > 1
        )

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, name: str) -> Tensor:
        if name in self._tables:
            return self._tables[name]
        if name == "lm_head.weight" and self._tied:
            name = "embed.weight"
        tensor = self._made.get(name)
        if tensor is None:
            tensor = self._made[name] = self._make(name)
        return tensor

    def panel_rows(self, name: str) -> PanelRows | None:
        """What is rounded while it is loaded, a slice of rows at a time; see `MakesPanels`."""
        weight = self._stored.get(name)
        if not isinstance(weight, QuantisedWeight) or not weight.fill_panels or self._dtype == "float32":
            return None
        rows, cols = weight.shape
        return PanelRows((rows, cols), weight.runs_as, PANEL_ROWS, weight.fill_panels)

    def _make(self, name: str) -> Tensor:
        weight = self._stored[name]
        if len(weight.shape) == 1 or self._dtype == "float32":
            tensor = Tensor.from_array(weight.to_float32())
        else:
            tensor = normalise(weight)
        if tensor is not weight:
            drop_source(source_of(weight))
        return tensor


def _check_names(
    checkpoint: GGUFFile | SafetensorsDirectory, spec: ModelSpec, places: WeightMap, expected: set[str]
) -> None:
    """Nothing that a checkpoint holds may be left out unnoticed: a bias not added is a wrong model.

    GPTQ's writers give every linear a bias; one of zeros may go.
    """
    stored_layers = 1 + max(spec.stored_layer(number) for number in range(spec.num_layers))
    for name in checkpoint.tensors:
        if name in expected or places.ignores(name, stored_layers):
            continue
        if name.endswith(".bias") and not checkpoint.tensor(name).to_float32().any():
            continue
        raise ValueError(f"{checkpoint.path}: tensor {name!r} is not part of the model that is described")
