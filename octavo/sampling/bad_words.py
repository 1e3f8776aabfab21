"""Words that a completion must not hold, as sequences of tokens: which token would complete one now."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from octavo.tokenizer.tokenizer import Tokenizer


class BadWords:
    """Sequences of tokens, of which the last token is forbidden where the others have just been put out.

    Only output tokens count, as in vLLM: a word that begins in the prompt may be completed.
    """

    __slots__ = ("_by_last", "_recent", "always")

    def __init__(self, sequences: Sequence[Sequence[int]]) -> None:
        self.always = [ids[0] for ids in sequences if len(ids) == 1]
        """Tokens that are a word by themselves."""
        self._by_last: dict[int, list[tuple[list[int], int]]] = {}
        longest = max(map(len, sequences), default=1) - 1
        self._recent: deque[int] = deque(maxlen=longest)
        for ids in sequences:
            if len(ids) > 1:
                *beginning, last = ids
                self._by_last.setdefault(beginning[-1], []).append((beginning, last))

    def append(self, token_id: int) -> None:
        """Take note of the next output token."""
        self._recent.append(token_id)

    def completing(self) -> list[int]:
        """Tokens that would complete a word of several tokens."""
        if not self._recent or self._recent[-1] not in self._by_last:
            return []
        recent = list(self._recent)
        candidates = self._by_last[recent[-1]]
        return [last for beginning, last in candidates if recent[-len(beginning) :] == beginning]


def bad_word_tokens(words: Sequence[str], tokenizer: Tokenizer) -> list[list[int]]:
    """The tokens of each word, as at the beginning of a text and as after a space.

    As in vLLM the second form counts only where it is a different first token and no more tokens. Raises
    ValueError for a word that has no tokens.
    """
    sequences: list[list[int]] = []
    for word in words:
        alone = tokenizer.encode(word.lstrip(), add_special_tokens=False)
        if not alone:
            raise ValueError(f"bad_words holds {word!r}, which has no tokens")
        sequences.append(alone)
        spaced = tokenizer.encode(f" {word.lstrip()}", add_special_tokens=False)
        if spaced[0] != alone[0] and len(spaced) == len(alone):
            sequences.append(spaced)
    return sequences
