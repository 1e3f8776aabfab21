"""Weights in another arrangement: their rows are those of NumPy's indexing, whatever they are stored in."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from octavo.formats.arranged import Arranged, arrange, some_rows
from octavo.formats.groups import Groups
from octavo.formats.tensor import Encoding, Tensor
from octavo.formats.weight import QuantisedWeight, read_rows

ROWS, COLS = 40, 64
VALUES = np.random.default_rng(0).standard_normal((ROWS, COLS)).astype(np.float32)


def quantised() -> QuantisedWeight:
    """Codes of int8 whose slices must begin and end at whole eights, as AWQ's do."""
    codes = np.random.default_rng(1).integers(-127, 128, (ROWS, 2, 32), dtype=np.int8)
    scales = np.random.default_rng(2).uniform(0.1, 1, (ROWS, 2)).astype(np.float32)

    def read(rows: slice) -> Groups:
        assert rows.start % 8 == 0
        assert rows.stop % 8 == 0
        return Groups(codes[rows], scales[rows])

    return QuantisedWeight((ROWS, COLS), "test", Encoding.Q8_0, codes.nbytes, read)


WEIGHTS = {
    "F32": Tensor.from_array(VALUES),
    "F16": Tensor((ROWS, COLS), Encoding.F16, VALUES.astype(np.float16).reshape(-1).view(np.uint8)),
    "Q8_0": Tensor(
        (ROWS, COLS),
        Encoding.Q8_0,
        np.concatenate(
            [
                np.full((ROWS * 2, 1), 0.25, np.float16).view(np.uint8),
                np.random.default_rng(3).integers(0, 256, (ROWS * 2, 32), dtype=np.uint8),
            ],
            axis=1,
        ).reshape(-1),
    ),
    "method": quantised(),
}
orders = st.lists(st.integers(0, ROWS - 1), min_size=1, max_size=ROWS).map(np.array)
column_orders = st.lists(st.integers(0, COLS - 1), min_size=1, max_size=COLS).map(np.array)


@pytest.mark.parametrize("name", WEIGHTS)
@given(order=orders, data=st.data())
def test_rows_are_those_of_numpy(name, order, data):
    weight = WEIGHTS[name]
    arranged, values = arrange(weight, order), weight.to_float32()[order]
    assert arranged.shape == values.shape
    assert np.array_equal(arranged.to_float32(), values)
    own = data.draw(st.lists(st.integers(0, len(order) - 1), min_size=1, max_size=9).map(np.array))
    assert np.array_equal(some_rows(arranged, own), values[own])
    whole = weight.stored_bytes * len(order) // ROWS
    assert arranged.stored_bytes == whole


@given(first=st.integers(0, ROWS - 1), data=st.data())
def test_neighbouring_rows_of_a_tensor_are_a_view(first, data):
    last = data.draw(st.integers(first + 1, ROWS))
    weight = WEIGHTS["Q8_0"]
    taken = arrange(weight, np.arange(first, last))
    assert isinstance(taken, Tensor)
    assert np.shares_memory(taken.data, weight.data)
    assert np.array_equal(taken.to_float32(), weight.to_float32()[first:last])


@pytest.mark.parametrize("name", ["F32", "F16"])
@given(order=column_orders, plus=st.sampled_from([0.0, 1.0]))
def test_transposes_of_floats(name, order, plus):
    weight = WEIGHTS[name]
    arranged, values = Arranged(weight, order, True, plus), weight.to_float32().T[order] + np.float32(plus)
    assert arranged.shape == values.shape
    assert np.array_equal(arranged.to_float32(), values)
    assert np.array_equal(some_rows(arranged, np.array([0])), values[:1])


@pytest.mark.parametrize("name", ["Q8_0", "method"])
def test_quantised_weights_are_not_transposed(name):
    with pytest.raises(ValueError, match="which octavo does not transpose"):
        arrange(WEIGHTS[name], None, transpose=True)


@given(order=orders)
def test_groups_of_rows_in_any_order(order):
    weight = WEIGHTS["method"]
    assert np.array_equal(read_rows(weight, order).values(), weight.to_float32()[order])
