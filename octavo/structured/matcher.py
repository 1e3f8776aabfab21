"""Where one sequence is in its grammar: which tokens may come next."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from llguidance import LLMatcher


_DRAWING = re.compile(r"^(\s*\d+ \|.*|[\s^]*)$", re.MULTILINE)
"""A line of the grammar, with its number, and the mark below it."""


class Matcher:
    """Follows the output tokens of a sequence. It depends on them and on the grammar alone."""

    __slots__ = ("_address", "_mask", "_matcher", "failure")

    def __init__(self, matcher: LLMatcher, vocab_size: int, output_token_ids: Sequence[int] = ()) -> None:
        """Takes over `matcher`, which is at the start of its grammar.

        Raises ValueError for `output_token_ids` that the grammar does not allow.
        """
        self._matcher = matcher
        self._mask = np.empty((vocab_size + 31) // 32, dtype=np.uint32)
        self._address = self._mask.ctypes.data
        self.failure = ""
        """Why the output can not go on: what the grammar needs to be followed is out of bounds, or a token
        came that it does not allow."""
        if output_token_ids and not matcher.consume_tokens(list(output_token_ids)):
            raise ValueError(f"structured_outputs: the tokens do not fit the grammar: {error_of(matcher)}")

    def mask(self) -> NDArray[np.uint32]:
        """The tokens that may come next, `[ceil(V / 32)]` words with the lowest bit first.

        Valid until the next call. At the end of the grammar only the tokens that end a sequence may come; so
        it is too after a failure, which `failure` tells.
        """
        self._matcher.unsafe_compute_mask_ptr(self._address, self._mask.nbytes)
        if self._matcher.is_error():
            self.failure = error_of(self._matcher)
        return self._mask

    def masks_along(self, token_ids: Sequence[int]) -> list[NDArray[np.uint32]]:
        """The masks after each of `token_ids`, were they to come next: as many as the grammar allows of them.

        It stays where it is.
        """
        matcher, masks = self._matcher.deep_copy(), []
        for token_id in token_ids:
            if not matcher.consume_token(token_id):
                break
            mask = np.empty_like(self._mask)
            matcher.unsafe_compute_mask_ptr(mask.ctypes.data, mask.nbytes)
            if matcher.is_error():
                break
            masks.append(mask)
        return masks

    def append(self, token_id: int) -> None:
        """Go on with the next output token."""
        if not self._matcher.consume_token(token_id):
            self.failure = error_of(self._matcher)


def error_of(matcher: LLMatcher) -> str:
    """What llguidance says is wrong, in one line of bounded length."""
    text = _DRAWING.sub("", matcher.get_error().replace("<non-verbose/>", ""))
    return " ".join(text.split())[:500] or "no reason given"
