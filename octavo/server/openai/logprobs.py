"""Logprobs in the three shapes that responses give them: legacy, chat, and vLLM's for prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from octavo.outputs import Logprob
from octavo.server.openai.responses import (
    ChatLogprobs,
    LegacyLogprobs,
    PromptLogprob,
    PromptLogprobs,
    TokenLogprob,
    TopLogprob,
)
from octavo.tokenizer.tokenizer import Tokenizer

LOWEST = -9999.0
"""Stands for a probability of 0: JSON has no infinity."""


def legacy_logprobs(
    token_ids: Sequence[int],
    positions: Sequence[Mapping[int, Logprob] | None],
    count: int,
    tokenizer: Tokenizer,
    *,
    text_offset: int = 0,
    as_ids: bool = False,
) -> LegacyLogprobs:
    """Logprobs of a completion: each token with the `count` most likely, and itself where it is not one.

    A position is None for the first token of an echoed prompt, which nothing predicted: its logprobs are
    null. `text_offset` is the number of characters before the first token. `as_ids` writes tokens as
    `token_id:5` in place of their texts, of which several may be the same.
    """
    offsets: list[int] = []
    chosen: list[float | None] = []
    tokens: list[str] = []
    top: list[dict[str, float] | None] = []
    for token_id, position in zip(token_ids, positions, strict=True):
        entry = position[token_id] if position else None
        text = _text(token_id, entry, tokenizer)
        tokens.append(_as_id(token_id) if as_ids else text)
        chosen.append(_finite(entry) if entry else None)
        top.append(_by_text(position, tokenizer, as_ids) if position else None)
        offsets.append(text_offset)
        text_offset += len(text)
    return LegacyLogprobs(offsets, chosen, tokens, top if count else None)


def chat_logprobs(
    token_ids: Sequence[int],
    positions: Sequence[Mapping[int, Logprob]],
    count: int,
    tokenizer: Tokenizer,
    *,
    as_ids: bool = False,
) -> ChatLogprobs:
    """Logprobs of a message: each token, and the `count` most likely in its place, best first.

    `as_ids` writes tokens as `token_id:5` in place of their texts.
    """

    def name(token_id: int, entry: Logprob) -> str:
        return _as_id(token_id) if as_ids else _text(token_id, entry, tokenizer)

    content = []
    for token_id, position in zip(token_ids, positions, strict=True):
        best = sorted(position.items(), key=lambda item: -item[1].logprob)[:count]
        top = [
            TopLogprob(name(i, entry), _finite(entry), list(tokenizer.token_bytes(i))) for i, entry in best
        ]
        entry, own_bytes = position[token_id], list(tokenizer.token_bytes(token_id))
        content.append(TokenLogprob(name(token_id, entry), _finite(entry), own_bytes, top))
    return ChatLogprobs(content)


def prompt_logprobs(positions: Sequence[Mapping[int, Logprob] | None]) -> PromptLogprobs:
    """Logprobs of a prompt's tokens by token id; null for the first, which nothing predicted."""
    return [
        {str(i): PromptLogprob(_finite(e), e.rank, e.decoded_token) for i, e in position.items()}
        if position is not None
        else None
        for position in positions
    ]


def _finite(entry: Logprob) -> float:
    return max(entry.logprob, LOWEST)


def _by_text(position: Mapping[int, Logprob], tokenizer: Tokenizer, as_ids: bool) -> dict[str, float]:
    """Logprobs by text; of tokens with the same text (parts of characters) the first, the chosen one."""
    by_text: dict[str, float] = {}
    for token_id, entry in position.items():
        name = _as_id(token_id) if as_ids else _text(token_id, entry, tokenizer)
        by_text.setdefault(name, _finite(entry))
    return by_text


def _as_id(token_id: int) -> str:
    return f"token_id:{token_id}"


def _text(token_id: int, entry: Logprob | None, tokenizer: Tokenizer) -> str:
    if entry is not None and entry.decoded_token is not None:
        return entry.decoded_token
    return tokenizer.token_text(token_id)
