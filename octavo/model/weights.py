"""A decoder's weights: their canonical names and shapes, and how they are taken from a checkpoint."""

from __future__ import annotations

import numpy as np

from octavo.formats.gguf import GGUFFile
from octavo.formats.safetensors import SafetensorsDirectory
from octavo.formats.tensor import Tensor
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


def load_weights(
    checkpoint: GGUFFile | SafetensorsDirectory, family: Family, spec: DecoderSpec, dtype: str
) -> dict[str, Tensor]:
    """Every weight of `spec` by canonical name, without the rope table.

    Matrices stay as stored, in the mapped file, unless `dtype` is "float32"; vectors are always float32.
    Tied embeddings are one Tensor under both names. Raises ValueError naming file and tensor for one that is
    missing, has another shape, or that the model would ignore.
    """
    names = GGUF_NAMES if isinstance(checkpoint, GGUFFile) else HF_NAMES
    interleaved = names is GGUF_NAMES and family.gguf_interleaved
    shapes = weight_shapes(spec)
    stored = {weight: checkpoint_name(names, weight) for weight in shapes}
    _check_names(checkpoint, set(stored.values()) | {checkpoint_name(names, "lm_head.weight")})

    weights: dict[str, Tensor] = {}
    for weight, shape in shapes.items():
        tensor = checkpoint.tensor(stored[weight])
        if tensor.shape != shape:
            raise ValueError(
                f"{checkpoint.path}: tensor {stored[weight]!r} has shape {tensor.shape}, not {shape}"
            )
        if len(shape) == 1 or dtype == "float32":
            tensor = Tensor.from_array(tensor.to_float32())
        if interleaved and (".attn.q." in weight or ".attn.k." in weight):
            tensor = _half_split(tensor, spec)
        weights[weight] = tensor
    if spec.tie_embeddings:
        weights["lm_head.weight"] = weights["embed.weight"]
    return weights


def _check_names(checkpoint: GGUFFile | SafetensorsDirectory, expected: set[str]) -> None:
    """Nothing that a checkpoint holds may be left out unnoticed: a bias not added is a wrong model."""
    for name in checkpoint.tensors:
        if name not in expected and not name.endswith(_NOT_WEIGHTS):
            raise ValueError(f"{checkpoint.path}: tensor {name!r} is not part of the model that is described")


def _half_split(tensor: Tensor, spec: DecoderSpec) -> Tensor:
    """`tensor`, of q or k, with the rows of each head put from interleaved rotary pairs to half-split ones.

    llama.cpp's converter stores row `i` of a head's first half at `2 i` and of its second half at `2 i + 1`.
    """
    rows = np.arange(tensor.shape[0]).reshape(-1, spec.head_dim // 2, 2)
    order = rows.swapaxes(1, 2).reshape(-1)
    if len(tensor.shape) == 1:
        return Tensor.from_array(tensor.to_float32()[order])
    return tensor.take_rows(order)
