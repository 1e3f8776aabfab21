"""The linear op: rows times the transpose of one or more weights, side by side."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from octavo.runtime.backend import Batch
from octavo.runtime.ops.opdef import Floats, OpDef, Run, Work
from octavo.runtime.ops.recorder import Recorder
from octavo.runtime.program import Attribute, Instruction, View


class LinearOps(Recorder):
    """Traces it."""

    def linear(
        self,
        x: View,
        weights: Sequence[tuple[str, int]],
        biases: Sequence[str | None] = (),
        residual: View | None = None,
    ) -> View:
        """`y = x @ concat(weights).T + concat(biases) [+ residual]`.

        `weights` are (name, out_features) pairs that share the input: q, k and v, or gate and up, are one
        op, so that a backend quantises and reads `x` once. The weights may differ in encoding. `biases`
        is empty or has a name or None for each weight. `residual` has the shape of the output.
        """
        if biases and len(biases) != len(weights):
            raise ValueError(f"{len(biases)} biases for {len(weights)} weights")
        bias_names = tuple(name or "" for name in biases) or ("",) * len(weights)
        output = self.new(self.rows_of(x), sum(out for _, out in weights))
        widths: dict[str, Attribute] = {f"out{i}": out for i, (_, out) in enumerate(weights)}
        bias_attributes: dict[str, Attribute] = {
            f"bias{i}": name for i, name in enumerate(bias_names) if name
        }
        inputs = (x,) if residual is None else (x, residual)
        shapes: list[tuple[str, tuple[int, ...]]] = [(name, (out, x.cols)) for name, out in weights]
        shapes += [(name, (out,)) for name, (_, out) in zip(bias_names, weights, strict=True) if name]
        return self.emit("linear", inputs, output, shapes, **widths, **bias_attributes)


def _linear(run: Run, batch: Batch, op: Instruction, inputs: list[Floats]) -> Floats:
    outputs = []
    for i, name in enumerate(op.multiplied):
        output = run.product(inputs[0], run.weights[name].T)
        if bias := op.attributes.get(f"bias{i}"):
            output = output + run.weights[str(bias)]
        outputs.append(output)
    joined = np.concatenate(outputs, axis=1)
    return joined + inputs[1] if len(inputs) > 1 else joined


def _work(op: Instruction) -> Work:
    return Work({name: rows * cols for name, (rows, cols) in zip(op.multiplied, op.shapes, strict=False)})


OPS = (OpDef("linear", _linear, _work),)
