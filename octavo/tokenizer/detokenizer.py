"""Text of a token stream, as it arrives.

`tokenizers.decoders.DecodeStream` decodes a growing window again at every token. It keeps whatever ends in
U+FFFD: for ever, when a model emits bytes that never become a character. And it raises once a window does not
begin as the last one did. Here each token has its bytes and the state is one UTF-8 decoder.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Sequence

from octavo.tokenizer.tokenizer import Tokenizer

MAX_PENDING_BYTES = 3
"""Bytes of a character that is not complete: a UTF-8 character has at most four."""


class IncrementalDetokenizer:
    """Turns tokens into text piece by piece; O(1) a token, and at most 3 bytes are held back.

    All pushes and `finish` together are `tokenizer.decode(prompt + output)` less the prompt's text. There are
    two exceptions. A character that begins in the prompt's last tokens and ends in the output is given whole.
    And a run of byte-fallback tokens may have bytes that are not UTF-8: here each such byte becomes U+FFFD.
    The decoder judges the run as a whole, and would take back the characters before that byte too.

    `skip_special_tokens` leaves out special tokens. Without `spaces_between_special_tokens` an added token
    that follows another one is given as it is written, with no space that the decoder would put there.
    """

    __slots__ = ("_after_added", "_at_start", "_join_added", "_skipped", "_strip", "_tokenizer", "_utf8")

    def __init__(
        self,
        tokenizer: Tokenizer,
        prompt_token_ids: Sequence[int],
        *,
        skip_special_tokens: bool = True,
        spaces_between_special_tokens: bool = True,
    ) -> None:
        pieces = tokenizer.pieces
        self._tokenizer = tokenizer
        self._skipped = tokenizer.special_token_ids if skip_special_tokens else frozenset[int]()
        self._join_added = not spaces_between_special_tokens
        self._utf8 = codecs.getincrementaldecoder("utf-8")(pieces.errors)
        self._at_start = True
        self._strip = pieces.strip_count
        self._after_added = False
        # How a text starts is settled by the prompt's first tokens, so a long prompt is not decoded.
        for token in prompt_token_ids:
            if not self._at_start and not self._strip:
                break
            self._strip_start(self._utf8.decode(self._piece(token)))
        self._after_added = bool(prompt_token_ids) and prompt_token_ids[-1] in tokenizer.added_token_ids
        self._utf8.reset()
        tail = b""
        for token in reversed(prompt_token_ids):
            if len(tail) >= MAX_PENDING_BYTES:
                break
            if token not in self._skipped:
                tail = tokenizer.token_bytes(token) + tail
        self._utf8.decode(tail)

    def push(self, token_ids: Iterable[int]) -> str:
        """The text that these tokens complete; it never ends inside a character."""
        text = self._utf8.decode(b"".join([self._piece(token) for token in token_ids]))
        return self._strip_start(text) if self._strip else text

    def finish(self) -> str:
        """What was held back, as U+FFFD: the output ends inside a character."""
        return self._utf8.decode(b"", final=True)

    def _piece(self, token: int) -> bytes:
        if token in self._skipped:
            return b""
        if self._at_start or self._join_added:
            return self._unusual_piece(token)
        return self._tokenizer.token_bytes(token)

    def _unusual_piece(self, token: int) -> bytes:
        """The bytes of a token whose neighbours matter: the first one, or an added one after another."""
        text = self._tokenizer.token(token)
        if text is None:
            return b""
        added = token in self._tokenizer.added_token_ids
        written = self._join_added and added and self._after_added
        piece = text.encode() if written else self._tokenizer.pieces.piece(text, first=self._at_start)
        self._at_start, self._after_added = False, added
        return piece

    def _strip_start(self, text: str) -> str:
        """`text` without the prefix that the decoder strips from the start of a whole text."""
        prefix = self._tokenizer.pieces.strip_prefix
        while self._strip and text:
            if not text.startswith(prefix):
                self._strip = 0
                break
            text = text.removeprefix(prefix)
            self._strip -= 1
        return text
