"""What comes before each linear, where a factor for each of its inputs can be divided out.

An input of a linear may be made smaller if the column of the weight that meets it is made larger. AWQ does so
where the inputs come from something that takes the division in: the weight of a norm, or the rows of the
linear that makes the values of attention or the second input of a gated activation. The Program says which
that is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container
from dataclasses import dataclass

from octavo.model.parts.activation import GATED
from octavo.runtime.program import Instruction, Program, View

_GATED = {each.op for each in GATED.values() if each.scales_through}


@dataclass(frozen=True, slots=True)
class Fold:
    """Weights that the factors of a linear's inputs are divided out of.

    `vectors` are divided entry by entry, `matrix` row by row. Each of their entries feeds `repeats` inputs of
    the linear, `head_dim` neighbours at a time: the query heads that share a KV head.
    """

    vectors: tuple[str, ...]
    matrix: str | None = None
    repeats: int = 1
    head_dim: int = 1


def folds(program: Program) -> dict[str, Fold]:
    """By the name of a linear's first weight, for the linears whose inputs can be scaled."""
    found: dict[str, Fold] = {}
    for number, each in enumerate(program.instructions):
        if each.op == "linear" and (fold := _fold(program, number)) is not None:
            found[each.weights[0]] = fold
    return found


def not_folded(program: Program, found: Container[str]) -> Counter[tuple[str, str]]:
    """The linears of layers that are not in `found`: how many of each part, and the op that feeds them."""
    count: Counter[tuple[str, str]] = Counter()
    for number, each in enumerate(program.instructions):
        if each.op == "linear" and each.weights[0].startswith("layers.") and each.weights[0] not in found:
            before = _producer(program, each.inputs[0], number)
            while before is not None and before[1].op == "gather_rows":
                before = _producer(program, before[1].inputs[0], before[0])
            part = each.weights[0].split(".", 2)[2].removesuffix(".weight")
            count[part, "nothing" if before is None else before[1].op] += 1
    return count


def _fold(program: Program, number: int) -> Fold | None:
    view = program.instructions[number].inputs[0]
    before = _producer(program, view, number)
    if before is None or _readers(program, view, number) != 1:
        return None
    if before[1].op == "gather_rows":
        view = before[1].inputs[0]
        before = _producer(program, view, before[0])
        if before is None:
            return None
    position, producer = before
    match producer.op:
        case "rms_norm":
            return Fold(producer.weights[:1])
        case op if op in _GATED:
            return _fold_rows(program, position, producer.inputs[1])
        case "paged_attention":
            heads, kv_heads = producer.attributes["num_heads"], producer.attributes["num_kv_heads"]
            head_dim = producer.attributes["head_dim"]
            repeats = int(heads) // int(kv_heads)
            return _fold_rows(program, position, producer.inputs[2], repeats, int(head_dim))
    return None


def _fold_rows(program: Program, number: int, view: View, repeats: int = 1, head_dim: int = 1) -> Fold | None:
    """The weight, and its bias, whose outputs are all of `view` and nothing else."""
    before = _producer(program, view, number)
    if before is None or before[1].op != "linear":
        return None
    linear, start = before[1], before[1].output.start
    for i, name in enumerate(linear.multiplied):
        width = linear.shapes[i][0]
        if (start, width) == (view.start, view.cols) and len(linear.inputs) == 1:
            bias = linear.attributes.get(f"bias{i}")
            return Fold((str(bias),) if bias else (), name, repeats, head_dim)
        start += width
    return None


def _producer(program: Program, view: View, before: int) -> tuple[int, Instruction] | None:
    """The last instruction ahead of `before` that writes into `view`, and its number."""
    for number in range(before - 1, -1, -1):
        if _overlap(program.instructions[number].output, view):
            return number, program.instructions[number]
    return None


def _readers(program: Program, view: View, number: int) -> int:
    """How many instructions read what the linear `number` reads, itself included."""
    return sum(_overlap(each, view) for other in program.instructions for each in other.inputs)


def _overlap(one: View, other: View) -> bool:
    return (
        one.buffer == other.buffer
        and one.start < other.start + other.cols
        and other.start < one.start + one.cols
    )
