"""Text to token ids and back, and chats to prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import tokenizers

from octavo.tokenizer.pieces import PieceDecoder

MAX_TOKEN_ID = 2**32 - 1


class Tokenizer:
    """A model's tokenizer, with what a server needs beside it.

    `special_tokens` are the named ones ("bos_token" -> "<s>"), which chat templates read too;
    `chat_templates` are Jinja sources by name, "default" the usual one. Special tokens that a text spells
    out are recognised, as in transformers. Safe to use from several threads.
    """

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        special_tokens: Mapping[str, str],
        chat_templates: Mapping[str, str],
    ) -> None:
        # A tokenizer.json may ask for the padding or length of its training; serving wants every token.
        backend.no_padding()
        backend.no_truncation()
        self._backend = backend
        self.special_tokens = dict(special_tokens)
        self.chat_templates = dict(chat_templates)
        self.pieces = PieceDecoder.of(backend.decoder)
        added = backend.get_added_tokens_decoder()
        self.added_token_ids = frozenset(added)
        self.special_token_ids = frozenset(token for token, entry in added.items() if entry.special)
        self._bytes: dict[int, bytes] = {}

    @property
    def vocab_size(self) -> int:
        """Number of tokens, added ones included; a model's logits may be wider (padded)."""
        size: int = self._backend.get_vocab_size(with_added_tokens=True)
        return size

    def to_json(self) -> str:
        """The content of a tokenizer.json."""
        text: str = self._backend.to_str()
        return text

    @property
    def bos_token_id(self) -> int | None:
        """The token that begins a text, if the model has one."""
        return self.token_id(self.special_tokens.get("bos_token"))

    @property
    def eos_token_id(self) -> int | None:
        """The token that ends a completion, if the model has one."""
        return self.token_id(self.special_tokens.get("eos_token"))

    @property
    def chat_template(self) -> str | None:
        """The source of the model's own chat template."""
        return self.chat_templates.get("default")

    def token_id(self, token: str | None) -> int | None:
        """The id of a token as the vocabulary spells it."""
        if token is None:
            return None
        found: int | None = self._backend.token_to_id(token)
        return found

    def token(self, token_id: int) -> str | None:
        """A token as the vocabulary spells it (`Ġhello`, `▁hello`, `<0x0A>`); None for an id it lacks."""
        if not 0 <= token_id <= MAX_TOKEN_ID:
            return None
        spelling: str | None = self._backend.id_to_token(token_id)
        return spelling

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes of text that a token stands for inside a text, maybe part of a character.

        Special tokens give their own spelling; an id that the vocabulary does not hold gives nothing.
        """
        found = self._bytes.get(token_id)
        if found is None:
            token = self.token(token_id)
            if token is None:
                return b""
            found = self._bytes[token_id] = self.pieces.piece(token)
        return found

    def token_text(self, token_id: int) -> str:
        """A token's text by itself, leading space included; U+FFFD where it is part of a character."""
        return self.token_bytes(token_id).decode("utf-8", self.pieces.errors)

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Token ids of `text`; `add_special_tokens` adds what the model wants around a text, such as BOS.

        A prompt from a chat template has its own special tokens: encode it without.
        Raises ValueError when `text` is not valid Unicode (a lone surrogate).
        """
        return self.encode_batch([text], add_special_tokens)[0]

    def encode_batch(self, texts: Sequence[str], add_special_tokens: bool = True) -> list[list[int]]:
        """`encode` for each text, in parallel and without the GIL."""
        for index, text in enumerate(texts):
            _check_unicode(text, f"text {index}" if len(texts) > 1 else "text")
        # encode_batch_fast leaves out the offsets, which take a third of the time.
        encodings = self._backend.encode_batch_fast(list(texts), add_special_tokens=add_special_tokens)
        return [encoding.ids for encoding in encodings]

    def decode(self, token_ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """The text of `token_ids`; bytes that are not UTF-8 become U+FFFD, ids without a token nothing.

        Raises ValueError for an id that is negative or does not fit in 32 bits.
        """
        try:
            text: str = self._backend.decode(list(token_ids), skip_special_tokens=skip_special_tokens)
        except OverflowError as error:
            raise ValueError(f"token ids must be from 0 to {MAX_TOKEN_ID}") from error
        return text

    def apply_chat_template(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        chat_template: str | None = None,
        **kwargs: Any,
    ) -> str:
        """The prompt for a chat, as transformers' method of this name gives with `tokenize=False`.

        `chat_template` is a Jinja source, or the name of one of the model's templates; by default "tool_use"
        where there are tools and the model has it, else "default". `kwargs` are more template variables.
        Raises ValueError when there is no template, a message is malformed, or the template refuses.
        """
        from octavo.tokenizer.chat_template import render_chat  # jinja2 takes 50 ms to import

        if chat_template is None and tools and "tool_use" in self.chat_templates:
            chat_template = "tool_use"
        source = self.chat_templates.get(chat_template or "default", chat_template)
        if source is None:
            raise ValueError("the model has no chat template; give one with --chat-template")
        return render_chat(
            source,
            messages,
            tools=tools,
            documents=documents,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=continue_final_message,
            variables={**self.special_tokens, **kwargs},
        )


def _check_unicode(text: str, name: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{name} is not valid Unicode: a lone surrogate {text[error.start]!a} at character {error.start}"
        ) from None
