"""A model's tokens as llguidance takes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llguidance import LLTokenizer

    from octavo.tokenizer.tokenizer import Tokenizer


class _Vocabulary:
    """What llguidance's `TokenizerWrapper` asks of a tokenizer."""

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, eos_token_id: int) -> None:
        self.eos_token_id = eos_token_id
        self.bos_token_id = tokenizer.bos_token_id
        # Ids that have no token (the logits of many models are wider than the vocabulary) have no bytes.
        self.tokens = [tokenizer.token_bytes(token_id) for token_id in range(vocab_size)]
        self.special_token_ids = sorted(each for each in tokenizer.special_token_ids if each < vocab_size)
        self._tokenizer = tokenizer

    def __call__(self, text: str) -> list[int]:
        if isinstance(text, bytes):
            raise TypeError("text only")  # llguidance tries bytes first
        return self._tokenizer.encode(text, add_special_tokens=False)


def grammar_vocabulary(tokenizer: Tokenizer, vocab_size: int, eos_token_ids: Sequence[int]) -> LLTokenizer:
    """The `vocab_size` tokens of a model, of which `eos_token_ids` end an output.

    Takes some 0.2 s for 49,000 tokens. Raises ValueError for a model that has no token that ends one.
    """
    from llguidance import LLTokenizer, TokenizerWrapper

    ends = [token_id for token_id in eos_token_ids if 0 <= token_id < vocab_size]
    if not ends:
        raise ValueError("structured_outputs: the model has no end-of-sequence token to end an output with")
    return LLTokenizer(TokenizerWrapper(_Vocabulary(tokenizer, vocab_size, ends[0])), eos_token=ends)
