"""The Program: a model traced once into a flat list of instructions over planned buffers.

What a CUDA graph does for a GPU, a Program does for every backend. The Python of a model runs once, at load,
on symbolic tensors. A step then replays the instructions with no Python per layer. Only the number of token
rows and the block tables change from step to step.

Every activation is a row-major float32 matrix `[rows, cols]`. `cols` is fixed by the model; `rows` is
either the number of tokens in the step or the number of rows that want logits.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from octavo.runtime.kv_cache import PagedKV


class Rows(Enum):
    """What the rows of a buffer count in a step."""

    TOKENS = "tokens"
    OUTPUTS = "outputs"


@dataclass(frozen=True, slots=True)
class Buffer:
    """A planned activation: `[rows, cols]` float32 at `offset` floats per row into its rows' arena."""

    rows: Rows
    cols: int
    offset: int = 0


@dataclass(frozen=True, slots=True)
class View:
    """Columns `[start, start + cols)` of buffer number `buffer`: what an instruction reads or writes."""

    buffer: int
    start: int
    cols: int

    def columns(self, start: int, cols: int) -> View:
        """The `cols` columns from column `start` of this view."""
        if start < 0 or cols < 1 or start + cols > self.cols:
            raise ValueError(f"columns [{start}, {start + cols}) are outside a view of {self.cols} columns")
        return View(self.buffer, self.start + start, cols)


Attribute = int | float | str


@dataclass(frozen=True, slots=True)
class Instruction:
    """One op of the table in `octavo.runtime.ops`: its operands, weights and constants.

    `shapes` are those of `weights`: `[out, in]` of a linear, `[cols]` of a norm. A table that is made when
    the model is loaded (rope's) has as many rows as there are positions, which the model does not say: -1.
    """

    op: str
    inputs: tuple[View, ...]
    output: View
    weights: tuple[str, ...] = ()
    shapes: tuple[tuple[int, ...], ...] = ()
    attributes: dict[str, Attribute] = field(default_factory=dict)

    @property
    def multiplied(self) -> tuple[str, ...]:
        """The weights that a linear multiplies by: those with an `out` attribute, ahead of the biases."""
        return self.weights[: sum(name.startswith("out") for name in self.attributes)]


@dataclass(frozen=True, slots=True)
class Program:
    """The instructions of a model in order, their buffers, and the arena sizes in floats per row.

    `cache_layers` are what its attentions keep in the KV cache, in the order of their `layer` attributes.
    """

    instructions: tuple[Instruction, ...]
    buffers: tuple[Buffer, ...]
    arena_cols: dict[Rows, int]
    result: View
    cache_layers: tuple[PagedKV, ...] = ()

    @property
    def weight_names(self) -> list[str]:
        """Each weight that the program reads, once, in order of first use."""
        return list(dict.fromkeys(name for each in self.instructions for name in each.weights))

    @property
    def weight_shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each weight that a checkpoint must hold, by canonical name; not those of tables.

        Raises ValueError for a weight that two instructions read as of different shapes.
        """
        shapes: dict[str, tuple[int, ...]] = {}
        for each in self.instructions:
            for name, shape in zip(each.weights, each.shapes, strict=True):
                if -1 not in shape and shapes.setdefault(name, shape) != shape:
                    raise ValueError(f"weight {name!r} is read as {shapes[name]} and as {shape}")
        return shapes

    @property
    def linear_weights(self) -> list[str]:
        """Those that a linear multiplies by, once each."""
        return list(dict.fromkeys(name for each in self.instructions for name in each.multiplied))

    @property
    def other_weights(self) -> list[str]:
        """Those that something else reads, once each: the embedding, norms, biases, the rope table."""
        return list(
            dict.fromkeys(name for each in self.instructions for name in each.weights[len(each.multiplied) :])
        )


def plan_arena(
    instructions: list[Instruction],
    buffers: list[Buffer],
    result: View,
    cache_layers: tuple[PagedKV, ...] = (),
) -> Program:
    """Give each buffer an offset so that buffers alive at the same time never overlap.

    A buffer lives from its first write to its last use; first fit in order of first write. With a
    transformer's chain of short-lived buffers this comes within a few per cent of the peak of live sizes.
    """
    first: dict[int, int] = {}
    last: dict[int, int] = {}
    for position, each in enumerate(instructions):
        for view in (*each.inputs, each.output):
            first.setdefault(view.buffer, position)
            last[view.buffer] = position
    last[result.buffer] = len(instructions)

    planned = list(buffers)
    arena_cols = dict.fromkeys(Rows, 0)
    placed: list[int] = []
    for number in sorted(first, key=lambda n: first[n]):
        buffer = buffers[number]
        offset = 0
        neighbours = [
            planned[other]
            for other in placed
            if buffers[other].rows is buffer.rows and last[other] >= first[number]
        ]
        for other in sorted(neighbours, key=lambda b: b.offset):
            if offset + buffer.cols <= other.offset:
                break
            offset = max(offset, other.offset + other.cols)
        planned[number] = Buffer(buffer.rows, buffer.cols, offset)
        placed.append(number)
        arena_cols[buffer.rows] = max(arena_cols[buffer.rows], offset + buffer.cols)
    return Program(tuple(instructions), tuple(planned), arena_cols, result, cache_layers)
