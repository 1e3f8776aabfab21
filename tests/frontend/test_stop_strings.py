"""Stop strings against a naive search, for any cut of the text into pieces."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from octavo.frontend.stop_strings import StopStrings

TEXT = st.text(alphabet="abc", max_size=40)
STOPS = st.lists(st.text(alphabet="abc", min_size=1, max_size=5), min_size=1, max_size=4)


def cut(text: str, sizes: list[int]) -> list[str]:
    pieces, start = [], 0
    for size in sizes:
        pieces.append(text[start : start + size])
        start += size
    return [*pieces, text[start:]]


def naive(text: str, stops: list[str], include: bool, free: int = 0) -> tuple[str, str | None]:
    """What is shown of `text` and the stop string found, where none may end in the first `free`."""
    for end in range(free + 1, len(text) + 1):
        ending = [stop for stop in stops if text[:end].endswith(stop)]
        if ending:
            stop = max(ending, key=len)
            return text[:end] if include else text[: end - len(stop)], stop
    return text, None


@given(TEXT, STOPS, st.lists(st.integers(0, 4), max_size=20), st.booleans())
def test_any_cut_finds_what_a_naive_search_finds(
    text: str, stops: list[str], sizes: list[int], include: bool
) -> None:
    search = StopStrings(stops, include)
    shown, found = "", None
    for piece in cut(text, sizes):
        released, found = search.push(piece)
        shown += released
        if found is not None:
            break
    else:
        shown += search.flush()
    assert (shown, found) == naive(text, stops, include)


@given(TEXT, STOPS, st.lists(st.integers(0, 4), max_size=20))
def test_no_part_of_a_stop_string_is_streamed_and_no_more_is_held(
    text: str, stops: list[str], sizes: list[int]
) -> None:
    search = StopStrings(stops, False)
    seen = shown = ""
    for piece in cut(text, sizes):
        released, found = search.push(piece)
        if found is not None:
            return
        seen, shown = seen + piece, shown + released
        partial = max(
            (size for stop in stops for size in range(len(stop)) if seen.endswith(stop[:size])), default=0
        )
        assert shown == seen[: len(seen) - partial]


@given(TEXT, TEXT, STOPS)
def test_text_without_search_is_never_cut_but_may_begin_a_stop_string(
    free: str, text: str, stops: list[str]
) -> None:
    search = StopStrings(stops, False)
    shown, found = search.push(free, search=False)
    assert found is None
    released, found = search.push(text)
    shown += released + ("" if found else search.flush())
    assert (shown, found) == naive(free + text, stops, False, free=len(free))


@pytest.mark.parametrize(
    ("stops", "include", "shown", "found"),
    [
        (["\n\n"], False, "one", "\n\n"),
        (["\n\n"], True, "one\n\n", "\n\n"),
        (["\n\nt", "e\n"], False, "on", "e\n"),
        (["xyz"], False, "one\n\ntwo", None),
        (["wo", "two"], False, "one\n\n", "two"),
    ],
)
def test_cases(stops: list[str], include: bool, shown: str, found: str | None) -> None:
    search = StopStrings(stops, include)
    released, stop = search.push("one\n\ntwo")
    assert (released + search.flush(), stop) == (shown, found)
