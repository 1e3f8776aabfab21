"""Prompts of random words that come to exactly so many tokens."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

from octavo.bench.dataset.config import DatasetConfig
from octavo.bench.dataset.conversation import Conversation, as_turns
from octavo.tokenizer.tokenizer import Tokenizer

_WORD = re.compile(r" [a-z]{2,}")
_CHARACTER = re.compile(r"[!-~]")
_FEWEST = 16
_TRIES = 8


class RandomWords:
    """Draws texts by length. Every word is a token with its space, so that neighbours do not merge."""

    def __init__(self, tokenizer: Tokenizer, seed: int) -> None:
        """Raises ValueError for a tokenizer without enough words or characters of its own."""
        self._tokenizer = tokenizer
        self._random = random.Random(seed)
        tokens = [
            tokenizer.token_text(token)
            for token in range(tokenizer.vocab_size)
            if token not in tokenizer.added_token_ids
        ]
        self._words = [text for text in tokens if _WORD.fullmatch(text)]
        if len(self._words) < _FEWEST:
            self._words = [text for text in tokens if _CHARACTER.fullmatch(text)]
        if len(self._words) < _FEWEST:
            raise ValueError("tokenizer (--tokenizer): it has too few words to make random prompts from")

    def texts(self, lengths: Sequence[int], prefix: str = "") -> list[tuple[str, int]]:
        """Texts of so many tokens after `prefix`, with the tokens that they came to in all.

        Where the tokenizer merges across words it may miss by a few; special tokens that it puts around a
        text count, as a server counts them.
        """
        base = self.count(prefix)
        words = [self._draw(length) for length in lengths]
        counts: list[int] = []
        for _ in range(_TRIES):
            texts = [prefix + "".join(each) for each in words]
            counts = [len(ids) for ids in self._tokenizer.encode_batch(texts)]
            excess = [count - base - length for count, length in zip(counts, lengths, strict=True)]
            if not any(excess):
                break
            for each, more in zip(words, excess, strict=True):
                if more > 0:
                    del each[max(1, len(each) - more) :]
                else:
                    each.extend(self._draw(-more))
        return [(prefix + "".join(each), count) for each, count in zip(words, counts, strict=True)]

    def count(self, text: str) -> int:
        """Tokens of `text`; of none at all, what the tokenizer puts around every text."""
        return len(self._tokenizer.encode(text))

    def draw_length(self, length: int, range_ratio: float) -> int:
        """A length about `length`."""
        if not range_ratio:
            return length
        return max(1, self._random.randint(int(length * (1 - range_ratio)), int(length * (1 + range_ratio))))

    def _draw(self, count: int) -> list[str]:
        return self._random.choices(self._words, k=count)


def random_conversations(config: DatasetConfig, tokenizer: Tokenizer) -> list[Conversation]:
    """As many conversations as asked for; only a first turn begins with the shared prefix."""
    words = RandomWords(tokenizer, config.seed)
    special = words.count("")
    prefix = ""
    if config.random_prefix_len:
        prefix = words.texts([config.random_prefix_len])[0][0]
    input_len = config.input_len or config.random_input_len
    output_len = config.output_len or config.random_output_len
    turns = []
    for number in range(config.num_turns):
        inputs = [words.draw_length(input_len, config.random_range_ratio) for _ in range(config.num_prompts)]
        outputs = [
            words.draw_length(output_len, config.random_range_ratio) for _ in range(config.num_prompts)
        ]
        lengths = [max(1, length - special) for length in inputs]
        drawn = words.texts(lengths, prefix if number == 0 else "")
        turns.append(as_turns([count for _, count in drawn], [text for text, _ in drawn], outputs))
    return [Conversation(each) for each in zip(*turns, strict=True)]
