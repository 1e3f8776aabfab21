"""Ops that pick rows: the embedding of each token, and the rows of a step that want logits."""

from __future__ import annotations

from octavo.runtime.backend import Batch
from octavo.runtime.ops.opdef import Floats, OpDef, Run
from octavo.runtime.ops.recorder import Recorder
from octavo.runtime.program import Instruction, Rows, View


class RowOps(Recorder):
    """Traces them."""

    def embedding(self, weight: str, rows: int, cols: int) -> View:
        """`y[t] = weight[token_ids[t]]`: `[T, cols]`, from a `weight` of `[rows, cols]`."""
        return self.emit("embedding", (), self.new(Rows.TOKENS, cols), ((weight, (rows, cols)),))

    def gather_rows(self, x: View) -> View:
        """`y[r] = x[output_rows[r]]`: the rows of the step that want logits, `[R, cols]`."""
        return self.emit("gather_rows", (x,), self.new(Rows.OUTPUTS, x.cols))


def _embedding(run: Run, batch: Batch, op: Instruction, inputs: list[Floats]) -> Floats:
    return run.weights[op.weights[0]][batch.token_ids]


def _gather_rows(run: Run, batch: Batch, op: Instruction, inputs: list[Floats]) -> Floats:
    return inputs[0][batch.output_rows]


OPS = (OpDef("embedding", _embedding), OpDef("gather_rows", _gather_rows))
