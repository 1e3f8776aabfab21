"""Sparse token counts against a dense count."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from octavo.sampling.token_counts import TokenCounts

tokens = st.lists(st.integers(0, 400), max_size=300)


@given(tokens, tokens)
def test_counts_are_those_of_the_outputs_over_every_token_seen(prompt: list[int], output: list[int]) -> None:
    counts = TokenCounts(prompt)
    for token_id in output:
        counts.add(token_id)
    expected = Counter(output)
    assert dict(zip(counts.ids.tolist(), counts.counts.tolist(), strict=True)) == {
        token_id: expected[token_id] for token_id in {*prompt, *output}
    }
    assert len(set(counts.ids.tolist())) == len(counts.ids)
