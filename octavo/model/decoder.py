"""A spec, traced into the Program that backends run."""

from __future__ import annotations

from octavo.model.spec import ModelSpec
from octavo.runtime.ops import Tracer
from octavo.runtime.program import Program


def trace(spec: ModelSpec) -> Program:
    """The Program of `spec`: token ids to the logits `[R, vocab_size]` of the rows that want them.

    It reads the weights of `octavo.model.weights`, and `ModelSpec.tables`.
    """
    ops = Tracer()
    return ops.finish(spec.trace(ops))
