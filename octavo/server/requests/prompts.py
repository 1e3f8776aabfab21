"""What a request asks to be completed, as token ids that are known to fit the model."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from octavo.server.errors import APIError, bad_input
from octavo.server.requests.generation_request import FieldNames
from octavo.server.serving import Serving

T = TypeVar("T")

MAX_PROMPTS = 1024
MAX_CHOICES = 4096
MAX_TEXT_CHARS = 1 << 23
"""Longest text; beyond what the models take that have the longest prompts."""
MAX_PROMPT_TOKENS = 1 << 21
INLINE_CHARS = 1 << 14
"""Longer texts are tokenised on a thread: the streams of other requests must not wait for them."""


@dataclass(slots=True)
class Prompt:
    """A prompt; `text` is None where the client sent token ids."""

    token_ids: list[int]
    text: str | None


async def encode(
    serving: Serving, texts: list[str], add_special_tokens: bool, param: str, most: int | None = None
) -> list[list[int]]:
    """The token ids of each text.

    Raises APIError, about `param`, when a text is too long, has more than `most` tokens, or the tokenizer
    refuses it.
    """
    tokenizer = serving.engine.tokenizer
    longest = max(map(len, texts))
    if longest > MAX_TEXT_CHARS:
        raise APIError(400, f"{param} takes at most {MAX_TEXT_CHARS} characters, got {longest}", param)

    def run() -> list[list[int]]:
        # Token ids take many times a text's memory: what is too long is refused before the rest is read.
        found: list[list[int]] = []
        for batch in _batches(texts):
            found += tokenizer.encode_batch(batch, add_special_tokens=add_special_tokens)
            if most is not None and (length := max(map(len, found))) >= most:
                raise too_long(param, length, most)
        return found

    with bad_input((param,)):
        if sum(map(len, texts)) <= INLINE_CHARS:
            return run()
        return await asyncio.to_thread(run)


def _batches(texts: list[str]) -> Iterator[list[str]]:
    """The texts in turn, as many at a time as have MAX_TEXT_CHARS characters together."""
    batch: list[str] = []
    size = 0
    for text in texts:
        if batch and size + len(text) > MAX_TEXT_CHARS:
            yield batch
            batch, size = [], 0
        batch.append(text)
        size += len(text)
    yield batch


def too_long(param: str, length: int, max_model_len: int) -> APIError:
    """The error for a prompt that leaves no room for a token."""
    return APIError(
        400,
        f"{param} has {length} tokens; this model takes at most {max_model_len} with the completion",
        param,
    )


async def completion_prompts(
    serving: Serving, prompt: str | list[str | int | list[int]], add_special_tokens: bool, *, truncated: bool
) -> list[Prompt]:
    """The prompts of a completion request: one text or list of token ids, or several of either.

    `truncated` says that they may be longer than the model takes.
    """
    if isinstance(prompt, str):
        prompt = [prompt]
    if not prompt:
        raise APIError(400, "prompt must not be empty", "prompt")
    if isinstance(prompt[0], int):
        if len(prompt) > MAX_PROMPT_TOKENS:
            raise APIError(
                400, f"prompt takes at most {MAX_PROMPT_TOKENS} tokens, got {len(prompt)}", "prompt"
            )
        prompt = [_of_type(prompt, int, "token ids")]
    if len(prompt) > MAX_PROMPTS:
        raise APIError(400, f"prompt takes at most {MAX_PROMPTS} prompts, got {len(prompt)}", "prompt")
    if isinstance(prompt[0], str):
        texts = _of_type(prompt, str, "texts")
        most = None if truncated else serving.engine.max_model_len
        ids = await encode(serving, texts, add_special_tokens, "prompt", most)
        return [Prompt(token_ids, text) for token_ids, text in zip(ids, texts, strict=True)]
    prompts = [Prompt(token_ids, None) for token_ids in _of_type(prompt, list, "lists of token ids")]
    for item in prompts:
        check_vocabulary("prompt", item.token_ids, serving.engine.vocab_size)
    return prompts


def fit(
    prompts: Sequence[Prompt],
    *,
    max_model_len: int,
    truncate: int | None,
    max_tokens: int | None,
    most_by_default: int | None,
    allowed: int | None,
    names: FieldNames,
) -> list[int]:
    """Check that each prompt and its completion fit the model; returns each prompt's `max_tokens`.

    `truncate` keeps that many of a prompt's last tokens, -1 as many as the model takes. Where the request
    gives no `max_tokens` it is `most_by_default`, cut to what is left; None is all that is left. No request
    gets more than `allowed`. Raises APIError that gives the numbers, about one of `names`.
    """
    if allowed is not None:
        max_tokens = None if max_tokens is None else min(max_tokens, allowed)
        most_by_default = allowed if most_by_default is None else min(most_by_default, allowed)
    limits = []
    for prompt in prompts:
        if truncate is not None:
            keep = max_model_len - (max_tokens or 1) if truncate == -1 else truncate
            if len(prompt.token_ids) > max(keep, 1):
                prompt.token_ids, prompt.text = prompt.token_ids[-max(keep, 1) :], None
        length = len(prompt.token_ids)
        room = max_model_len - length
        if length == 0:
            raise APIError(400, f"{names.prompt} has no tokens", names.prompt)
        if room < 1:
            raise too_long(names.prompt, length, max_model_len)
        if max_tokens is not None and max_tokens > room:
            raise APIError(
                400,
                f"{names.max_tokens}={max_tokens} and {length} tokens of {names.prompt} are over this "
                f"model's {max_model_len}; ask for at most {room}",
                names.max_tokens,
            )
        limits.append(max_tokens if max_tokens is not None else min(most_by_default or room, room))
    return limits


def check_vocabulary(param: str, token_ids: Sequence[int], vocab_size: int) -> None:
    """Raise APIError, about `param`, for a token id that the model does not have."""
    if token_ids and not (min(token_ids) >= 0 and max(token_ids) < vocab_size):
        raise APIError(400, f"{param} has a token id outside 0 to {vocab_size - 1}", param)


def check_choices(num_prompts: int, n: int) -> None:
    """Raise APIError when a request asks for too many completions in all."""
    if num_prompts * n > MAX_CHOICES:
        raise APIError(400, f"n: {num_prompts} prompts times n={n} is over {MAX_CHOICES} choices", "n")


def _of_type(items: Sequence[object], kind: type[T], what: str) -> list[T]:
    for item in items:
        if not isinstance(item, kind):
            raise APIError(400, f"prompt mixes types: expected only {what}", "prompt")
    return list(items)  # type: ignore[arg-type]
