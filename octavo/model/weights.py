"""A decoder's weights: their canonical names and shapes, and how they are taken from a checkpoint."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import lcm
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import NDArray

from octavo.formats.gguf import GGUFFile
from octavo.formats.normalise import normalise, packed_bytes, runs_as
from octavo.formats.panels import PANEL_ROWS, PanelRows
from octavo.formats.safetensors import SafetensorsDirectory
from octavo.formats.tensor import Encoding, Tensor
from octavo.formats.weight import QuantisedWeight, Weight, drop_source
from octavo.model.families.family import Family
from octavo.model.families.names import GGUF_NAMES, HF_NAMES, checkpoint_name
from octavo.model.spec import DecoderSpec

_NOT_WEIGHTS = ("rotary_emb.inv_freq", "rope_freqs.weight")
"""Ends of the names of tensors that hold what the rope table has already."""


def weight_shapes(spec: DecoderSpec) -> dict[str, tuple[int, ...]]:
    """The shape of each weight that a checkpoint of `spec` must hold, by canonical name."""
    hidden, wide = spec.hidden_size, spec.intermediate_size
    shapes: dict[str, tuple[int, ...]] = {"embed.weight": (spec.vocab_size, hidden), "norm.weight": (hidden,)}
    if not spec.tie_embeddings:
        shapes["lm_head.weight"] = (spec.vocab_size, hidden)
    for layer in range(spec.num_layers):
        linears = {
            "attn.q": (spec.query_cols, hidden, spec.qkv_bias),
            "attn.k": (spec.kv_cols, hidden, spec.qkv_bias),
            "attn.v": (spec.kv_cols, hidden, spec.qkv_bias),
            "attn.o": (hidden, spec.query_cols, spec.output_bias),
            "mlp.gate": (wide, hidden, spec.mlp_bias),
            "mlp.up": (wide, hidden, spec.mlp_bias),
            "mlp.down": (hidden, wide, spec.mlp_bias),
        }
        for part, (rows, cols, bias) in linears.items():
            shapes[f"layers.{layer}.{part}.weight"] = (rows, cols)
            if bias:
                shapes[f"layers.{layer}.{part}.bias"] = (rows,)
        shapes[f"layers.{layer}.attn_norm.weight"] = shapes[f"layers.{layer}.mlp_norm.weight"] = (hidden,)
        if spec.qk_norm:
            shapes[f"layers.{layer}.attn.q_norm.weight"] = (spec.head_dim,)
            shapes[f"layers.{layer}.attn.k_norm.weight"] = (spec.head_dim,)
    return shapes


def stored_weights(checkpoint: GGUFFile | SafetensorsDirectory, spec: DecoderSpec) -> dict[str, Weight]:
    """Every weight of `spec` by canonical name, as the checkpoint stores it.

    Raises ValueError naming file and tensor for one that is missing, has another shape, or that the model
    would ignore.
    """
    names = GGUF_NAMES if isinstance(checkpoint, GGUFFile) else HF_NAMES
    shapes = weight_shapes(spec)
    names_in_file = {weight: checkpoint_name(names, weight) for weight in shapes}
    _check_names(checkpoint, set(names_in_file.values()) | {checkpoint_name(names, "lm_head.weight")})

    stored: dict[str, Weight] = {}
    for weight, shape in shapes.items():
        stored[weight] = checkpoint.tensor(names_in_file[weight])
        if stored[weight].shape != shape:
            raise ValueError(
                f"{checkpoint.path}: tensor {names_in_file[weight]!r} has shape {stored[weight].shape}, "
                f"not {shape}"
            )
    return stored


class ModelWeights(Mapping[str, Tensor]):
    """Every weight of a spec by canonical name, in the form that it runs in, made when it is asked for.

    Matrices stay as stored, in the mapped file, where the backends run what they are stored in; others are
    brought into a form that they do run. With `dtype` "float32" all become exactly that; vectors always do.
    Nothing that was made is kept: of a model whose weights are taken one after the other, only one is there
    twice at a time. Tied embeddings are one Tensor under both names while anybody has it, unless `stored` has
    a head. Safe to use from several threads.
    """

    def __init__(
        self, stored: dict[str, Weight], spec: DecoderSpec, dtype: str, *, interleaved: bool, rope: Tensor
    ) -> None:
        self._stored = stored
        self._spec = spec
        self._dtype = dtype
        self._interleaved = interleaved
        self._rope = rope
        self._tied = spec.tie_embeddings and "lm_head.weight" not in stored
        self._names = [*stored, *(["lm_head.weight"] if self._tied else []), "rope"]
        self._made: WeakValueDictionary[str, Tensor] = WeakValueDictionary()

    @property
    def num_bytes(self) -> int:
        """About what they take packed; nothing is made for it."""
        return sum(
            packed_bytes(Encoding.F32 if self._dtype == "float32" else runs_as(weight), *weight.shape)
            for weight in self._stored.values()
            if len(weight.shape) == 2
        )

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, name: str) -> Tensor:
        if name == "rope":
            return self._rope
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
        fill, head_dim = weight.fill_panels, self._spec.head_dim
        ordered = self._is_interleaved(name)

        def fill_ordered(rows: slice, panels: NDArray[np.uint8]) -> None:
            count = (rows.stop - rows.start) if ordered else 0
            fill(rows, half_split_order(count, head_dim).astype(np.int32), panels)

        together = lcm(PANEL_ROWS, head_dim) if ordered else PANEL_ROWS
        rows, cols = weight.shape
        return PanelRows((rows, cols), weight.runs_as, together, fill_ordered)

    def _is_interleaved(self, name: str) -> bool:
        return self._interleaved and (".attn.q." in name or ".attn.k." in name)

    def _make(self, name: str) -> Tensor:
        weight = self._stored[name]
        if len(weight.shape) == 1 or self._dtype == "float32":
            tensor = Tensor.from_array(weight.to_float32())
        else:
            tensor = normalise(weight)
        if self._is_interleaved(name):
            tensor = _half_split(tensor, self._spec)
        if tensor is not weight:
            drop_source(weight)
        return tensor


def load_weights(
    checkpoint: GGUFFile | SafetensorsDirectory,
    family: Family,
    spec: DecoderSpec,
    stored: dict[str, Weight],
    dtype: str,
    rope: Tensor,
) -> ModelWeights:
    """The weights of `spec`, from the `stored_weights` of `checkpoint`, and its rope table."""
    interleaved = isinstance(checkpoint, GGUFFile) and family.gguf_interleaved
    return ModelWeights(stored, spec, dtype, interleaved=interleaved, rope=rope)


def _check_names(checkpoint: GGUFFile | SafetensorsDirectory, expected: set[str]) -> None:
    """Nothing that a checkpoint holds may be left out unnoticed: a bias not added is a wrong model.

    GPTQ's writers give every linear a bias; one of zeros may go.
    """
    for name in checkpoint.tensors:
        if name in expected or name.endswith(_NOT_WEIGHTS):
            continue
        if name.endswith(".bias") and not checkpoint.tensor(name).to_float32().any():
            continue
        raise ValueError(f"{checkpoint.path}: tensor {name!r} is not part of the model that is described")


def half_split_order(rows: int, head_dim: int) -> NDArray[np.intp]:
    """Which of interleaved `rows`, heads of `head_dim`, each half-split row is."""
    pairs = np.arange(rows).reshape(-1, head_dim // 2, 2)
    return pairs.swapaxes(1, 2).reshape(-1)


def _half_split(tensor: Tensor, spec: DecoderSpec) -> Tensor:
    """`tensor`, of q or k, with the rows of each head put from interleaved rotary pairs to half-split ones.

    llama.cpp's converter stores row `i` of a head's first half at `2 i` and of its second half at `2 i + 1`.
    """
    order = half_split_order(tensor.shape[0], spec.head_dim)
    if len(tensor.shape) == 1:
        return Tensor.from_array(tensor.to_float32()[order])
    return tensor.take_rows(order)
