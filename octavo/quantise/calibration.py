"""A model run over a text one linear at a time, so that what each one is given can be looked at.

Before a linear runs, its weights may be replaced: those after it then see what the replaced ones give, as
they will when all are quantised. No more than one op's weights, and the activations in use, are in memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from octavo.formats.groups import Floats
from octavo.model.decoder import trace
from octavo.model.spec import ModelSpec
from octavo.quantise.source import Source
from octavo.runtime.backend import Batch
from octavo.runtime.kv_cache import BLOCK_SIZE, KVCacheSpec
from octavo.runtime.ops import OPS
from octavo.runtime.program import Rows, View
from octavo.runtime.reference import ReferenceExecutable

Sequences = Sequence[Sequence[int]]


@dataclass(frozen=True, slots=True)
class Linear:
    """Weights that share an input, by canonical name, and that input: `[tokens, cols]`."""

    names: tuple[str, ...]
    inputs: Floats


class CalibrationRun:
    """One pass of the model of `weights` over `sequences` of token ids, in float32 with NumPy."""

    def __init__(self, spec: ModelSpec, weights: Mapping[str, Floats], sequences: Sequences) -> None:
        self._weights = weights
        self._program = trace(spec)
        self._batch = _batch(sequences)
        self._replaced: dict[str, Floats] = {}
        tables = spec.tables(max(len(each) for each in sequences))
        self._run = _Executable(
            KVCacheSpec(self._program.cache_layers, "float32"),
            _Overlaid(weights, tables, self._replaced),
        )
        self._run.allocate_kv_cache(int(self._batch.block_tables.max()) + 1)

    def replace(self, name: str, values: Floats) -> None:
        """Have the linear that comes next use `values` for its weight `name`."""
        self._replaced[name] = values

    def linears(self) -> Iterator[Linear]:
        """Each linear of a layer, before it runs, and after them the head."""
        program, batch = self._program, self._batch
        last_use = {
            view.buffer: number
            for number, each in enumerate(program.instructions)
            for view in (*each.inputs, each.output)
        }
        rows = {Rows.TOKENS: len(batch.token_ids), Rows.OUTPUTS: len(batch.output_rows)}
        buffers: dict[int, Floats] = {}

        def array(view: View) -> Floats:
            if view.buffer not in buffers:
                buffer = program.buffers[view.buffer]
                buffers[view.buffer] = np.zeros((rows[buffer.rows], buffer.cols), np.float32)
            return buffers[view.buffer][:, view.start : view.start + view.cols]

        for number, each in enumerate(program.instructions):
            inputs = [array(view) for view in each.inputs]
            if each.op == "linear":
                names = tuple(name for name in each.weights if name.endswith(".weight"))
                yield Linear(names, np.ascontiguousarray(inputs[0]))
            if each.op == "embedding":
                array(each.output)[:] = self._rows(each.weights[0])
            else:
                array(each.output)[:] = OPS[each.op].reference(self._run, batch, each, inputs)
            self._replaced.clear()
            for buffer in [key for key in buffers if last_use[key] == number]:
                del buffers[buffer]

    def _rows(self, name: str) -> Floats:
        """The rows of an embedding that the tokens pick: it may be larger than a model that is quantised."""
        if isinstance(self._weights, Source):
            return self._weights.rows(name, self._batch.token_ids.astype(np.intp))
        return self._weights[name][self._batch.token_ids]


class _Executable(ReferenceExecutable):
    """The state that the reference's ops run on, with weights that are not all decoded beforehand."""

    def __init__(self, kv_cache: KVCacheSpec, weights: Mapping[str, Floats]) -> None:
        self._kv_spec = kv_cache
        self.weights = weights

    @staticmethod
    def product(rows: Floats, matrix: Floats) -> Floats:
        """By BLAS, many times faster than in a fixed order: a text has thousands of tokens."""
        product: Floats = rows @ matrix
        return product


class _Overlaid(Mapping[str, Floats]):
    def __init__(self, base: Mapping[str, Floats], *over: Mapping[str, Floats]) -> None:
        self._base, self._over = base, over

    def __getitem__(self, name: str) -> Floats:
        for each in self._over:
            if name in each:
                return each[name]
        return self._base[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._base)

    def __len__(self) -> int:
        return len(self._base)


def _batch(sequences: Sequences) -> Batch:
    """All sequences in one step; every token is an output, so that the head sees as many as the others."""
    lengths = np.array([len(each) for each in sequences], np.int32)
    blocks = -(-lengths // BLOCK_SIZE)
    tables = np.zeros((len(sequences), int(blocks.max())), np.int32)
    for row, (count, first) in enumerate(zip(blocks, np.cumsum(blocks) - blocks, strict=True)):
        tables[row, :count] = np.arange(first, first + count)
    total = int(lengths.sum())
    return Batch(
        token_ids=np.concatenate([np.asarray(each, np.int32) for each in sequences]),
        positions=np.concatenate([np.arange(length, dtype=np.int32) for length in lengths]),
        query_starts=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32),
        context_lens=lengths,
        block_tables=tables[None],
        output_rows=np.arange(total, dtype=np.int32),
    )
