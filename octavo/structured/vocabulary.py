"""A model's tokens as llguidance takes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from llguidance import LLTokenizer

    from octavo.tokenizer.tokenizer import Tokenizer


class Vocabulary(msgspec.Struct, tag="vocabulary", array_like=True):
    """What grammars need of a tokenizer, to be sent to an engine process, which has none.

    `tokens[i]` are the bytes of token `i`, none for an id that has no token: the logits of many models are
    wider than the vocabulary. `tokenizer_json` says how text is tokenised.
    """

    tokens: list[bytes]
    special_token_ids: list[int]
    tokenizer_json: str

    @property
    def special_tokens(self) -> frozenset[str]:
        """How the special tokens are spelled."""
        return frozenset(self.tokens[each].decode("utf-8", "replace") for each in self.special_token_ids)


def vocabulary_of(tokenizer: Tokenizer, vocab_size: int) -> Vocabulary:
    """The first `vocab_size` tokens of a tokenizer; some 80 ms for 49,000."""
    return Vocabulary(
        [tokenizer.token_bytes(token_id) for token_id in range(vocab_size)],
        sorted(each for each in tokenizer.special_token_ids if each < vocab_size),
        tokenizer.to_json(),
    )


class _Tokens:
    """What llguidance's `TokenizerWrapper` asks of a tokenizer.

    It tokenises text that a grammar leaves no choice of, so that such text comes in the tokens that the model
    knows it in.
    """

    bos_token_id = None

    def __init__(self, vocabulary: Vocabulary, eos_token_id: int) -> None:
        from llguidance import LLTokenizer

        self.tokens = vocabulary.tokens
        self.special_token_ids = vocabulary.special_token_ids
        self._special = frozenset(vocabulary.special_token_ids)
        self.eos_token_id = eos_token_id
        self.trie: LLTokenizer | None = None
        """What the tokens are for, once it is there."""
        self._encoder: LLTokenizer | None
        try:
            self._encoder = LLTokenizer(vocabulary.tokenizer_json, slices=[])
        except ValueError:  # a kind of tokenizer that llguidance does not have
            self._encoder = None

    def __call__(self, text: bytes) -> list[int]:
        """Tokens that are exactly `text`: the usual ones, or the longest ones if those are something more.

        SentencePiece may put a space before a text, and a text may spell a special token.
        """
        if self._encoder is not None:
            ids = self._encoder.tokenize_bytes(text)
            if all(map(self._is_text, ids)) and b"".join(self.tokens[each] for each in ids) == text:
                return ids
        return [] if self.trie is None else self.trie.greedy_tokenize(text.decode("utf-8", "ignore"))

    def _is_text(self, token_id: int) -> bool:
        return token_id < len(self.tokens) and token_id not in self._special


def grammar_vocabulary(vocabulary: Vocabulary, eos_token_ids: Sequence[int]) -> LLTokenizer:
    """The tokens of a model, of which `eos_token_ids` end an output.

    Takes some 0.2 s for 49,000 tokens, without the GIL. Raises ValueError for a model that has no token that
    ends an output.
    """
    from llguidance import LLTokenizer, TokenizerWrapper

    ends = [token_id for token_id in eos_token_ids if 0 <= token_id < len(vocabulary.tokens)]
    if not ends:
        raise ValueError("structured_outputs: the model has no end-of-sequence token to end an output with")
    tokens = _Tokens(vocabulary, ends[0])
    tokens.trie = LLTokenizer(TokenizerWrapper(tokens), eos_token=ends)
    return tokens.trie
