"""Weights of 16 or 32 bits that are rounded to fewer while they are loaded: `--quantization int8` and so on.

Nothing is rounded before a backend asks for a matrix, and then a slice of rows at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from octavo.formats.arranged import AnyWeight, Arranged, source_of
from octavo.formats.groups import Groups
from octavo.formats.mapped import drop_pages
from octavo.formats.rounding import GROUP, FloatRows, float8_rows, round_rows, round_to_panels
from octavo.formats.scaling import Scaling
from octavo.formats.tensor import Encoding, Tensor
from octavo.formats.weight import QuantisedWeight

ON_LOAD = ("int8", "int4", "fp8", "awq-like")
"""What `--quantization` rounds a checkpoint of 16 or 32 bits to. awq-like is int4 after AWQ's scaling."""

FLOATS = (Encoding.F32, Encoding.F16, Encoding.BF16)

_RUNS_AS = {"int8": Encoding.Q8_0, "int4": Encoding.Q4_0, "fp8": Encoding.F8_E4M3}


def rounded_on_load(
    stored: dict[str, AnyWeight], quantization: str, path: Path, scalings: Mapping[str, Scaling]
) -> dict[str, AnyWeight]:
    """`stored`, by canonical name, with each linear's matrix rounded as `quantization` says when it is read.

    The embedding and vectors stay as they are but for their scaling; the head, tied or not, is int8. Matrices
    whose rows are not whole groups of 32 stay too, where there are groups. Raises ValueError, naming `path`,
    for a checkpoint that is quantised already.
    """
    weights = dict(stored)
    weights.setdefault("lm_head.weight", stored["embed.weight"])
    for name, weight in weights.items():
        if name == "embed.weight":
            continue
        scaling = scalings.get(name, Scaling())
        if len(weight.shape) == 1:
            if name in scalings:
                weights[name] = Tensor.from_array(scaling.apply(weight.to_float32()))
            continue
        source = source_of(weight)
        if (
            isinstance(weight, QuantisedWeight)
            or not isinstance(source, Tensor)
            or (source.encoding not in FLOATS)
        ):
            raise ValueError(
                f"quantization (--quantization) is {quantization}, which rounds weights of 16 or 32 bits, "
                f"but {path} is quantised already: {name} is {weight.format}; leave it out"
            )
        method = "int4" if quantization == "awq-like" else quantization
        if name == "lm_head.weight":
            method = "int8"
        if method == "fp8" or weight.shape[-1] % GROUP == 0:
            weights[name] = _rounded(weight, f"{path}: {name}", scaling, method)
    return weights


def _rounded(weight: Tensor | Arranged, name: str, scaling: Scaling, method: str) -> QuantisedWeight:
    cols = weight.shape[-1]

    def rows_of(rows: slice) -> FloatRows:
        part = _rows(weight, rows)
        factors = None if scaling.rows is None else scaling.rows[rows]
        return FloatRows(part.encoding.value, part.data, cols, scaling.columns, factors)

    @contextmanager
    def reading(rows: slice) -> Iterator[None]:
        try:
            yield
        except ValueError as error:
            raise ValueError(f"{name} {error}") from None
        finally:
            _drop_rows(weight, rows)

    def read(rows: slice) -> Groups:
        with reading(rows):
            if cols % GROUP:
                return float8_rows(scaling.apply(_rows(weight, rows).to_float32(), rows))
            return round_rows(method, rows_of(rows), GROUP, scaling.importance)

    def fill_panels(rows: slice, panels: NDArray[np.uint8]) -> None:
        with reading(rows):
            round_to_panels(method, rows_of(rows), panels, scaling.importance)

    if cols % GROUP:
        return QuantisedWeight(weight.shape, weight.format, Encoding.F16, weight.stored_bytes, read)
    return QuantisedWeight(
        weight.shape, weight.format, _RUNS_AS[method], weight.stored_bytes, read, fill_panels=fill_panels
    )


def _rows(weight: Tensor | Arranged, rows: slice) -> Tensor:
    """Neighbouring rows: a view where they lie so in the file."""
    if isinstance(weight, Arranged):
        taken = weight.take(rows)
        assert isinstance(taken, Tensor)
        return taken
    data = weight.data.reshape(weight.rows, -1)[rows]
    return Tensor((len(data), weight.shape[-1]), weight.encoding, data.reshape(-1))


def _drop_rows(weight: Tensor | Arranged, rows: slice) -> None:
    """Give back the mapped memory that the rows were read from."""
    if isinstance(weight, Tensor):
        drop_pages(weight.data.reshape(weight.rows, -1)[rows])
    elif isinstance(weight.source, Tensor) and weight.rows is not None and not weight.transpose:
        own = weight.rows[rows]
        drop_pages(weight.source.data.reshape(weight.source.rows, -1)[own.min() : own.max() + 1])
