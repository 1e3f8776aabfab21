"""The op table: everything that a model may ask of a backend.

A model is a plain Python function that calls the methods of a `Tracer`; each call appends one `Instruction`.
The docstrings of these methods are the contract. The NumPy function beside each of them says the same in
code, and every backend is tested against it.

`T` is the number of tokens in the step, `R` the number of rows that want logits. Weights are named; a linear
weight is `[out_features, in_features]` as in PyTorch. All arithmetic is float32 unless a backend says
otherwise for a quantised weight.
"""

from __future__ import annotations

from octavo.runtime.ops import attention, elementwise, linear, rows
from octavo.runtime.ops.opdef import OpDef


class Tracer(rows.RowOps, elementwise.ElementwiseOps, linear.LinearOps, attention.AttentionOps):
    """Records the ops that a model calls; `finish` returns the planned `Program`."""


OPS: dict[str, OpDef] = {op.name: op for op in (*rows.OPS, *elementwise.OPS, *linear.OPS, *attention.OPS)}
"""Every op by name."""
