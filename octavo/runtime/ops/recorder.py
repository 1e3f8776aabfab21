"""What tracing an op does: an instruction is appended, and a buffer is made for what it gives."""

from __future__ import annotations

from collections.abc import Sequence

from octavo.runtime.kv_cache import PagedKV
from octavo.runtime.program import Attribute, Buffer, Instruction, Program, Rows, View, plan_arena


class Recorder:
    """The instructions, buffers and cache layers so far; `finish` returns the planned `Program`."""

    def __init__(self) -> None:
        self.buffers: list[Buffer] = []
        self.instructions: list[Instruction] = []
        self.cache_layers: list[PagedKV] = []

    def new(self, rows: Rows, cols: int) -> View:
        """A new buffer."""
        self.buffers.append(Buffer(rows, cols))
        return View(len(self.buffers) - 1, 0, cols)

    def like(self, x: View) -> View:
        """A new buffer with as many rows and columns as `x`."""
        return self.new(self.rows_of(x), x.cols)

    def rows_of(self, x: View) -> Rows:
        """What the rows of `x` count."""
        return self.buffers[x.buffer].rows

    def emit(
        self,
        op: str,
        inputs: tuple[View, ...],
        output: View,
        weights: Sequence[tuple[str, tuple[int, ...]]] = (),
        **attributes: Attribute,
    ) -> View:
        """Append an instruction; `weights` are (name, shape) pairs. Returns `output`."""
        names, shapes = tuple(name for name, _ in weights), tuple(shape for _, shape in weights)
        self.instructions.append(Instruction(op, inputs, output, names, shapes, attributes))
        return output

    def finish(self, result: View) -> Program:
        """The Program that computes `result`."""
        return plan_arena(self.instructions, self.buffers, result, tuple(self.cache_layers))
