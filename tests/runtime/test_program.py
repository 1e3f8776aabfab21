"""The arena plan: whatever a model does, buffers that are alive together never overlap."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from octavo.runtime.ops import Tracer
from octavo.runtime.program import Program, Rows, View


@st.composite
def programs(draw: st.DrawFn) -> Program:
    """Random traces: each op reads any earlier view of its kind of rows, or writes one in place."""
    ops = Tracer()
    views = [ops.embedding("embed", 7, draw(st.integers(1, 40)))]
    outputs: list[View] = []
    for i in range(draw(st.integers(0, 25))):
        group = draw(st.sampled_from([views, outputs])) or views
        x = draw(st.sampled_from(group))
        if draw(st.booleans()):
            start = draw(st.integers(0, x.cols - 1))
            x = x.columns(start, draw(st.integers(1, x.cols - start)))
        same = [each for each in group if each.cols == x.cols]
        match draw(st.sampled_from(["linear", "residual", "norm", "in place", "gather"])):
            case "linear":
                widths = draw(st.lists(st.integers(1, 30), min_size=1, max_size=3))
                group.append(ops.linear(x, [(f"w{i}.{n}", width) for n, width in enumerate(widths)]))
            case "residual" if same:
                residual = draw(st.sampled_from(same))
                group.append(ops.linear(x, [(f"w{i}", residual.cols)], residual=residual))
            case "in place":
                ops.rope(x, "rope", x.cols, 2)
            case "gather" if group is views:
                outputs.append(ops.gather_rows(x))
            case _:
                group.append(ops.rms_norm(x, "norm", 1e-6))
    return ops.finish(draw(st.sampled_from(views + outputs)))


def lifetimes(program: Program) -> dict[int, tuple[int, int]]:
    """First and last instruction that touches each buffer; the result is read after the last one."""
    spans: dict[int, tuple[int, int]] = {}
    for position, each in enumerate(program.instructions):
        for view in (*each.inputs, each.output):
            spans[view.buffer] = (spans.get(view.buffer, (position, 0))[0], position)
    first, _ = spans[program.result.buffer]
    spans[program.result.buffer] = (first, len(program.instructions))
    return spans


@given(programs())
def test_live_buffers_never_overlap(program):
    spans = lifetimes(program)
    for a, (first_a, last_a) in spans.items():
        for b, (first_b, last_b) in spans.items():
            one, other = program.buffers[a], program.buffers[b]
            alive_together = first_a <= last_b and first_b <= last_a
            if a < b and one.rows is other.rows and alive_together:
                assert one.offset + one.cols <= other.offset or other.offset + other.cols <= one.offset


@given(programs())
def test_buffers_lie_in_the_arena(program):
    for buffer in program.buffers:
        assert buffer.offset >= 0
        assert buffer.offset + buffer.cols <= program.arena_cols[buffer.rows]
    for rows in Rows:
        ends = [each.offset + each.cols for each in program.buffers if each.rows is rows]
        assert program.arena_cols[rows] == max(ends, default=0)


def test_a_chain_reuses_its_memory():
    """A long chain of equal buffers needs two, as each op reads one and writes the other."""
    ops = Tracer()
    x = ops.embedding("embed", 8, 8)
    for i in range(10):
        x = ops.rms_norm(x, f"norm{i}", 1e-6)
    assert ops.finish(x).arena_cols == {Rows.TOKENS: 16, Rows.OUTPUTS: 0}


def test_weight_names_are_listed_once_in_order():
    ops = Tracer()
    x = ops.embedding("embed", 8, 8)
    x = ops.linear(x, [("b", 8), ("a", 8)], [None, "bias"])
    x = ops.linear(x, [("embed", 8)])
    assert ops.finish(x).weight_names == ["embed", "b", "a", "bias"]


def test_views_stay_inside_their_buffer():
    view = View(0, 4, 8).columns(2, 3)
    assert view == View(0, 6, 3)
    for start, cols in ((-1, 2), (0, 0), (6, 3)):
        with pytest.raises(ValueError, match="outside a view of 8 columns"):
            View(0, 4, 8).columns(start, cols)


def test_biases_must_match_the_weights():
    ops = Tracer()
    with pytest.raises(ValueError, match="1 biases for 2 weights"):
        ops.linear(ops.embedding("embed", 8, 8), [("a", 8), ("b", 8)], ["bias"])
