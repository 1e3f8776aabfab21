"""The counter-based generator against published answers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from octavo.sampling.rng import philox4x32, uniform

WORD = 0xFFFFFFFF


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        (
            (0, 0, 0, 0),
            (0, 0),
            (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8),
        ),
        (
            (WORD, WORD, WORD, WORD),
            (WORD, WORD),
            (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
        ),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_known_answers(
    counter: tuple[int, int, int, int], key: tuple[int, int], expected: tuple[int, ...]
) -> None:
    """The "philox4x32 10" lines of Random123's kat_vectors."""
    assert philox4x32(counter, key) == expected


def test_philox_agrees_with_cpp26() -> None:
    """C++26 [rand.predef]: the 10000th number of a default std::philox4x32, whose seed is 20111115."""
    assert philox4x32((9999 // 4, 0, 0, 0), (20111115, 0))[9999 % 4] == 1955073260


def test_uniform_takes_53_bits_of_the_first_two_words() -> None:
    assert uniform(0, 0) == (0xE169C58D6627E8D5 >> 11) / 2**53


@given(st.integers(-(2**63), 2**63 - 1), st.integers(0, 2**40))
def test_uniform_is_a_function_into_the_half_open_unit_interval(seed: int, position: int) -> None:
    assert 0.0 <= uniform(seed, position) < 1.0
    assert uniform(seed, position) == uniform(seed, position)


def test_seeds_that_differ_in_any_bit_differ() -> None:
    seeds = [0, -1, *(1 << bit for bit in range(63)), -(2**63)]
    assert len({uniform(seed, 7) for seed in seeds}) == len(seeds)


def test_positions_that_differ_in_any_bit_differ() -> None:
    positions = [0, *(1 << bit for bit in range(63))]
    assert len({uniform(7, position) for position in positions}) == len(positions)


@pytest.mark.parametrize("along", ["position", "seed"])
def test_neighbours_look_independent(along: str) -> None:
    """Consecutive positions, and consecutive seeds at one position, fill 16 x 16 bins of pairs evenly."""
    count = 20000
    draws = np.array([uniform(3, i) if along == "position" else uniform(i, 3) for i in range(count)])
    pairs, _, _ = np.histogram2d(draws[:-1], draws[1:], bins=16, range=[[0, 1], [0, 1]])
    expected = (count - 1) / 256
    chi_square = ((pairs - expected) ** 2 / expected).sum()
    # 255 degrees of freedom: mean 255, standard deviation 22.6.
    assert 255 - 5 * 22.6 < chi_square < 255 + 5 * 22.6
