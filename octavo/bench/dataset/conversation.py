"""What a benchmark asks a model: prompts, or conversations of several turns."""

from __future__ import annotations

import msgspec


class Turn(msgspec.Struct, frozen=True):
    """A user's text, its tokens by the benchmark's tokenizer, and the most tokens that may answer it."""

    text: str
    num_tokens: int
    output_len: int


class Conversation(msgspec.Struct, frozen=True):
    """Turns that one client sends, each after the answer to the one before; a plain request has one."""

    turns: tuple[Turn, ...]


def as_turns(tokenizer_counts: list[int], texts: list[str], output_lens: list[int]) -> list[Turn]:
    """A turn for each text."""
    return [Turn(*each) for each in zip(texts, tokenizer_counts, output_lens, strict=True)]
