"""What an op is to everybody but the model that calls it: its name, its meaning in NumPy, and its work."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from octavo.runtime.backend import Batch
from octavo.runtime.program import Attribute, Instruction

Floats = NDArray[np.float32]
Slots = tuple[NDArray[np.int32], NDArray[np.int32]]
"""The block of each token, and its place in it."""


class KVLayer(Protocol):
    """One layer of a KV cache that NumPy reads and writes."""

    @property
    def group(self) -> int:
        """The KV group whose block tables it goes by."""
        ...

    def write(self, slots: Slots, keys: Floats, values: Floats) -> None:
        """Put `[tokens, KV heads, dim]` keys and values into slots, rounded to the cache's type."""
        ...

    def read(self, slots: Slots) -> tuple[Floats, Floats]:
        """Keys and values of slots, `[tokens, KV heads, dim]` each."""
        ...


class Run(Protocol):
    """What a NumPy op runs on: the weights as float32 by name, and the KV cache by layer."""

    @property
    def weights(self) -> Mapping[str, Floats]:
        """A matrix is `[out, in]`."""
        ...

    @property
    def layers(self) -> Mapping[int, KVLayer]:
        """By the `layer` attribute of `paged_attention`."""
        ...

    def product(self, rows: Floats, matrix: Floats) -> Floats:
        """`rows @ matrix`, in an order that a row's neighbours do not change."""
        ...


@dataclass(frozen=True, slots=True)
class Work:
    """Multiply-adds of an instruction.

    `row` are those for each row of its output, by the weight that is multiplied with; `pair` are those for
    each (query, key) pair.
    """

    row: Mapping[str, int] = field(default_factory=dict)
    pair: int = 0


def no_work(instruction: Instruction) -> Work:
    """That of ops whose time is that of reading and writing their rows."""
    return Work()


@dataclass(frozen=True, slots=True)
class OpDef:
    """One entry of the op table.

    `reference` gives the values of the output from those of the inputs: the definition that every backend is
    tested against.
    """

    name: str
    reference: Callable[[Run, Batch, Instruction, list[Floats]], Floats]
    work: Callable[[Instruction], Work] = no_work


def heads(x: Floats, head_dim: Attribute) -> Floats:
    """`[T, heads * head_dim]` as `[T, heads, head_dim]`."""
    return x.reshape(len(x), x.shape[1] // int(head_dim), int(head_dim))
