"""A tiny Llama of random weights, made without files, torch or transformers."""

from __future__ import annotations

from typing import Any

import numpy as np

from octavo.formats.tensor import Encoding, Tensor
from octavo.model.load import LoadedModel
from octavo.model.rope import Rope
from octavo.model.spec import ModelSpec
from octavo.model.uniform import uniform_decoder
from octavo.model.weights import stored_shapes

SIZES: dict[str, Any] = {
    "family": "llama",
    "hidden_size": 64,
    "num_heads": 4,
    "num_kv_heads": 2,
    "head_dim": 16,
    "intermediate_size": 96,
    "vocab_size": 80,
    "max_position": 256,
    "norm_eps": 1e-5,
    "rope": Rope(dim=16, theta=10000.0),
}


def llama_spec(windows: tuple[int, ...] = (0, 24), **changes: Any) -> ModelSpec:
    """A layer for each of `windows`; `changes` are arguments of `uniform_decoder`."""
    return uniform_decoder(**SIZES | changes | {"num_layers": len(windows)}).with_windows(windows)


SPEC = llama_spec()

HYBRID = llama_spec((0, 24, 24, 0, 24))
"""One whose layers differ in what they see."""


def random_llama(
    encoding: Encoding = Encoding.F32, max_model_len: int = 96, spec: ModelSpec = SPEC
) -> LoadedModel:
    """The model, its matrices in `encoding` (F32, Q8_0, Q4_0 or Q4_1), norms near one."""
    random = np.random.default_rng(7)
    weights = {}
    for name, shape in stored_shapes(spec).items():
        values = random.normal(1.0 if len(shape) == 1 else 0.0, 0.2, shape).astype(np.float32)
        if len(shape) == 1 or encoding is Encoding.F32:
            weights[name] = Tensor.from_array(values)
        else:
            weights[name] = _random_groups(random, shape, encoding)
    weights |= {name: Tensor.from_array(table) for name, table in spec.tables(max_model_len).items()}
    return LoadedModel(spec, [0], max_model_len, weights)


def _random_groups(random: np.random.Generator, shape: tuple[int, ...], encoding: Encoding) -> Tensor:
    """Random quants under scales that give values of about 0.2."""
    groups = int(np.prod(shape)) // encoding.group_size
    data = random.integers(0, 256, (groups, encoding.group_bytes), dtype=np.uint8)
    size = 0.003 if encoding is Encoding.Q8_0 else 0.04
    data[:, :2] = random.uniform(size / 2, size, groups).astype("<f2")[:, None].view(np.uint8)
    if encoding is Encoding.Q4_1:
        data[:, 2:4] = random.uniform(-8 * size, -7 * size, groups).astype("<f2")[:, None].view(np.uint8)
    return Tensor(shape, encoding, data.reshape(-1))
