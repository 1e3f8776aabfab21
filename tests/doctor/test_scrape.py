"""What is read out of /metrics."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from octavo.doctor.scrape import Histogram, Scrape

TEXT = """
# TYPE requests_total counter
requests_total{model="a",reason="stop"} 3
requests_total{model="a",reason="abort"} 2
requests_total{model="b",reason="stop"} 10
# TYPE wait_seconds histogram
wait_seconds_bucket{model="a",le="0.1"} 1
wait_seconds_bucket{model="a",le="1.0"} 3
wait_seconds_bucket{model="a",le="+Inf"} 4
wait_seconds_sum{model="a"} 9
wait_seconds_count{model="a"} 4
wait_seconds_bucket{model="b",le="0.1"} 1
wait_seconds_bucket{model="b",le="1.0"} 1
wait_seconds_bucket{model="b",le="+Inf"} 1
wait_seconds_sum{model="b"} 0.05
wait_seconds_count{model="b"} 1
"""


def test_values_are_added_up_over_labels_that_are_not_asked_for() -> None:
    scrape = Scrape.parse(TEXT)
    assert scrape.value("requests_total") == 15
    assert scrape.value("requests_total", reason="stop") == 13
    assert scrape.value("requests_total", reason="stop", model="a") == 3
    assert scrape.value("nothing") == 0
    assert "requests_total" in scrape
    assert "nothing" not in scrape


def test_histograms_of_several_models_are_one() -> None:
    histogram = Scrape.parse(TEXT).histogram("wait_seconds")
    assert histogram.bounds == (0.1, 1.0, math.inf)
    assert histogram.counts == (2, 4, 5)
    assert histogram.mean == pytest.approx(9.05 / 5)
    assert histogram.quantile(0.4) == pytest.approx(0.1)
    assert histogram.quantile(0.6) == pytest.approx(0.1 + 0.9 / 2)
    assert histogram.quantile(1.0) == 1.0
    assert Scrape.parse("").histogram("wait_seconds").quantile(0.5) == 0.0


def test_what_happened_in_between() -> None:
    later = Scrape.parse(
        TEXT.replace('reason="stop"} 3', 'reason="stop"} 7').replace('le="1.0"} 3', 'le="1.0"} 4')
    )
    grown = later.since(Scrape.parse(TEXT))
    assert grown.value("requests_total") == 4
    assert grown.histogram("wait_seconds").counts == (0, 1, 0)


def test_a_server_that_started_again_counts_from_nothing() -> None:
    restarted = Scrape.parse(TEXT.replace('reason="stop"} 10', 'reason="stop"} 1'))
    assert restarted.since(Scrape.parse(TEXT)).value("requests_total") == 6


@given(st.lists(st.integers(0, 50), min_size=3, max_size=3), st.floats(0.01, 1.0))
def test_a_quantile_is_in_the_bucket_of_its_rank(sizes: list[int], q: float) -> None:
    counts = [sum(sizes[: end + 1]) for end in range(3)]
    histogram = Histogram((1.0, 2.0, 4.0, math.inf), (*map(float, counts), float(counts[-1])), 1.0)
    if not counts[-1]:
        assert histogram.quantile(q) == 0.0
        return
    value = histogram.quantile(q)
    below = [0.0, 1.0, 2.0, 4.0]
    bucket = next(i for i, count in enumerate(counts) if count >= q * counts[-1])
    assert below[bucket] <= value <= below[bucket + 1]
