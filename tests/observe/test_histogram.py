"""The histogram against the client library's own, on the same values."""

from __future__ import annotations

import prometheus_client
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest

from octavo.observe.histogram import Histogram

BOUNDS = (0.001, 0.25, 0.5, 1, 2.5, 20)


@given(st.lists(st.tuples(st.sampled_from([0.0, 0.125, 0.25, 0.5, 1.0, 1.5, 20.0, 64.0]), st.integers(1, 9))))
def test_it_gives_what_the_library_gives(values: list[tuple[float, int]]) -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    histogram = Histogram("h", "Help.", {"a": "b"}, BOUNDS, ours)
    library = prometheus_client.Histogram("h", "Help.", ["a"], registry=theirs, buckets=BOUNDS).labels("b")
    for value, count in values:
        histogram.observe(value, count)
        for _ in range(count):
            library.observe(value)
    lines = [line for line in generate_latest(theirs).splitlines() if b"_created" not in line]
    assert sorted(generate_latest(ours).splitlines()) == sorted(lines)
