"""Where the rows of a weight lie in a tensor that a checkpoint stores.

A `RowOrder` is asked with the spec, the number of a layer and the count of the weight's rows, and gives for
each of these rows the number of the stored one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from octavo.model.parts.attention import Attention
from octavo.model.spec import ModelSpec

Rows = NDArray[np.intp]
RowOrder = Callable[[ModelSpec, int, int], Rows]
Projection = Literal["q", "k", "v"]


def equal_part(number: int) -> RowOrder:
    """Part `number` of a tensor that has several weights of one size, one after the other: gate and up."""
    return lambda spec, layer, count: np.arange(number * count, (number + 1) * count)


def query_key_value(which: Projection) -> RowOrder:
    """A tensor with all queries, then all keys, then all values."""

    def rows(spec: ModelSpec, layer: int, count: int) -> Rows:
        mixer = _attention(spec, layer)
        start = {"q": 0, "k": mixer.query_cols, "v": mixer.query_cols + mixer.kv_cols}[which]
        return np.arange(start, start + count)

    return rows


def by_kv_group(which: Projection) -> RowOrder:
    """A tensor with, for each KV head, the query heads that share it, then its keys, then its values.

    With as many KV heads as query heads this is q, k and v of each head: GPT-NeoX, BLOOM.
    """

    def rows(spec: ModelSpec, layer: int, count: int) -> Rows:
        mixer = _attention(spec, layer)
        queries = mixer.num_heads // mixer.num_kv_heads
        shape = mixer.num_kv_heads, queries + 2, mixer.head_dim
        heads = np.arange(math.prod(shape)).reshape(shape)
        first, last = {"q": (0, queries), "k": (queries, queries + 1), "v": (queries + 1, queries + 2)}[which]
        return heads[:, first:last].reshape(-1)

    return rows


def pairs_to_halves(spec: ModelSpec, layer: int, count: int) -> Rows:
    """Heads whose rotary pairs are stored as neighbours.

    octavo rotates column `i` of a head with column `i + dim / 2`; here they are rows `2 i` and `2 i + 1`.
    What is behind the `dim` rows that rotate stays where it is.
    """
    mixer = _attention(spec, layer)
    assert mixer.rope is not None, "a layer that does not rotate has no pairs"
    dim = spec.ropes[mixer.rope].dim
    heads = np.arange(count).reshape(-1, mixer.head_dim)
    pairs = heads[:, :dim].reshape(len(heads), dim // 2, 2).swapaxes(1, 2).reshape(len(heads), dim)
    return np.concatenate([pairs, heads[:, dim:]], axis=1).reshape(-1)


def both(outer: RowOrder, inner: RowOrder) -> RowOrder:
    """`inner` within the rows that `outer` picks: interleaved pairs of a fused tensor."""
    return lambda spec, layer, count: outer(spec, layer, count)[inner(spec, layer, count)]


def _attention(spec: ModelSpec, layer: int) -> Attention:
    mixer = spec.layers[layer].mixer
    assert mixer is not None, "only attention has q, k and v"
    return mixer
