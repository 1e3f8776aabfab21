"""Ops whose rows depend on nothing but themselves: norms, activations, sums."""

from __future__ import annotations

import numpy as np

from octavo.runtime import fixed_order
from octavo.runtime.backend import Batch
from octavo.runtime.ops.opdef import Floats, OpDef, Run, heads
from octavo.runtime.ops.recorder import Recorder
from octavo.runtime.program import Attribute, Instruction, View


class ElementwiseOps(Recorder):
    """Traces them."""

    def rms_norm(self, x: View, weight: str, eps: float) -> View:
        """`y = x / sqrt(mean(x^2) + eps) * weight` over each row (Zhang and Sennrich, 2019)."""
        return self.emit("rms_norm", (x,), self.like(x), ((weight, (x.cols,)),), eps=eps)

    def head_rms_norm(self, x: View, weight: str, head_dim: int, eps: float) -> View:
        """`rms_norm` over each `head_dim` columns of `x` separately, written in place."""
        return self.emit("head_rms_norm", (x,), x, ((weight, (head_dim,)),), head_dim=head_dim, eps=eps)

    def silu_mul(self, gate: View, up: View) -> View:
        """`y = gate * sigmoid(gate) * up` (SwiGLU, Shazeer 2020)."""
        return self.emit("silu_mul", (gate, up), self.like(gate))

    def add(self, x: View, y: View) -> View:
        """`x + y`, a new buffer."""
        return self.emit("add", (x, y), self.like(x))


def _rms_norm(run: Run, batch: Batch, op: Instruction, inputs: list[Floats]) -> Floats:
    return _normalise(inputs[0], run.weights[op.weights[0]], op.attributes["eps"])


def _head_rms_norm(run: Run, batch: Batch, op: Instruction, inputs: list[Floats]) -> Floats:
    each_head = heads(inputs[0], op.attributes["head_dim"])
    return _normalise(each_head, run.weights[op.weights[0]], op.attributes["eps"]).reshape(inputs[0].shape)


def _normalise(x: Floats, weight: Floats, eps: Attribute) -> Floats:
    mean_square = fixed_order.total(np.square(x))[..., None] / np.float32(x.shape[-1])
    normed: Floats = x / np.sqrt(mean_square + np.float32(eps)) * weight
    return normed


def _silu_mul(run: Run, batch: Batch, op: Instruction, inputs: list[Floats]) -> Floats:
    gate, up = inputs
    # exp of the negative magnitude alone: no overflow on either side.
    small = fixed_order.exp(-np.abs(gate))
    sigmoid: Floats = np.where(gate >= 0, np.float32(1), small) / (np.float32(1) + small)
    return gate * sigmoid * up


def _add(run: Run, batch: Batch, op: Instruction, inputs: list[Floats]) -> Floats:
    return inputs[0] + inputs[1]


OPS = (
    OpDef("rms_norm", _rms_norm),
    OpDef("head_rms_norm", _head_rms_norm),
    OpDef("silu_mul", _silu_mul),
    OpDef("add", _add),
)
