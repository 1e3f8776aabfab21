"""The head: from the last hidden state to the logits of the vocabulary."""

from __future__ import annotations

from dataclasses import dataclass

from octavo.runtime.ops import Tracer
from octavo.runtime.program import View


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """A linear to the vocabulary. `tied` says that its weight is the embedding's."""

    tied: bool = False

    def trace(self, ops: Tracer, x: View, vocab_size: int) -> View:
        """The logits, `[R, vocab_size]`."""
        return ops.linear(x, [("lm_head.weight", vocab_size)])
