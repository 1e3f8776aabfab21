"""Integer softmax weights against the exponential function."""

from __future__ import annotations

import numpy as np
import pytest

from octavo.sampling.weights import ONE, log2_floor, share, weigh


@pytest.mark.parametrize("temperature", [0.25, 1.0, 3.0])
def test_weights_are_the_exponential_to_its_rounding(temperature: float) -> None:
    logits = np.linspace(-12, 0, 100_001, dtype=np.float32)
    exact = np.exp(logits.astype(np.float64) / temperature) * ONE
    # Half a unit from the rounding to an integer; the rest from the float32 exponent, up to 70 octaves.
    error = np.abs(weigh(logits, np.float32(0), temperature) - np.where(exact < 1, 0, exact))
    assert (error <= 1 + 4e-6 * exact).all()


def test_the_most_likely_token_weighs_one_and_an_impossible_one_nothing() -> None:
    top = np.float32(7.25)
    assert weigh(np.array([7.25, -np.inf, 7.25], np.float32), top, 0.3).tolist() == [ONE, 0, ONE]


def test_what_is_less_than_2_to_the_minus_40_as_likely_weighs_nothing() -> None:
    octaves = np.array([-39.5, -40.5, -200.0, -1e30], np.float32)
    assert (weigh(octaves * np.float32(np.log(2)), np.float32(0)) > 0).tolist() == [True, False, False, False]


def test_min_p_cuts_at_its_share_of_the_most_likely() -> None:
    logits = np.log(np.array([1.0, 0.21, 0.19], np.float32))
    assert (weigh(logits, np.float32(0), min_p=0.2) > 0).tolist() == [True, True, False]
    assert log2_floor(0.0) == log2_floor(1e-30) == -40


@pytest.mark.parametrize(("total", "fraction", "expected"), [(10, 0.5, 5), (10, 0.51, 6), (3, 1e-6, 1)])
def test_a_share_is_rounded_up(total: int, fraction: float, expected: int) -> None:
    assert share(total, fraction) == expected
    assert share(2**58 + 1, 1 - 2.0**-53) <= 2**58 + 1
