"""Weights of 16 or 32 bits that are rounded to fewer while they are loaded: `--quantization int8` and so on.

Nothing is rounded before a backend asks for a matrix, and then a slice of rows at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from octavo.formats.groups import Floats, Groups
from octavo.formats.mapped import drop_pages
from octavo.formats.rounding import GROUP, float8_groups, float8_rows, round_int4, round_int8
from octavo.formats.scaling import Scaling
from octavo.formats.tensor import Encoding, Tensor
from octavo.formats.weight import QuantisedWeight, Weight

ON_LOAD = ("int8", "int4", "fp8", "awq-like")
"""What `--quantization` rounds a checkpoint of 16 or 32 bits to. awq-like is int4 after AWQ's scaling."""

FLOATS = (Encoding.F32, Encoding.F16, Encoding.BF16)

Rounding = Callable[[Floats, Floats | None], Groups]
"""From rows, and the importance of their columns where it is known, to codes and scales."""

ROUNDINGS: dict[str, Rounding] = {
    "int8": lambda values, _: round_int8(values),
    "int4": lambda values, importance: round_int4(values, GROUP, importance),
    "fp8": lambda values, _: float8_groups(values) if values.shape[1] % GROUP == 0 else float8_rows(values),
}

_RUNS_AS = {"int8": Encoding.Q8_0, "int4": Encoding.Q4_0, "fp8": Encoding.F8_E4M3}


def rounded_on_load(
    stored: dict[str, Weight], quantization: str, path: Path, scalings: Mapping[str, Scaling]
) -> dict[str, Weight]:
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
        if not isinstance(weight, Tensor) or weight.encoding not in FLOATS:
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


def _rounded(weight: Tensor, name: str, scaling: Scaling, method: str) -> QuantisedWeight:
    data = weight.data.reshape(weight.rows, -1)

    def read(rows: slice) -> Groups:
        part = data[rows]
        values = Tensor((len(part), weight.shape[-1]), weight.encoding, part.reshape(-1)).to_float32()
        try:
            return ROUNDINGS[method](scaling.apply(values, rows), scaling.importance)
        except ValueError as error:
            raise ValueError(f"{name} {error}") from None
        finally:
            drop_pages(part)

    runs_as = Encoding.F16 if weight.shape[-1] % GROUP else _RUNS_AS[method]
    return QuantisedWeight(weight.shape, weight.format, runs_as, weight.stored_bytes, read)
