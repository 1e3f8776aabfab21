"""Prompts from a file of one's own, a JSON object on each line."""

from __future__ import annotations

import random
from pathlib import Path

import msgspec

from octavo.bench.dataset.config import DatasetConfig
from octavo.bench.dataset.conversation import Conversation, Turn, as_turns
from octavo.tokenizer.tokenizer import Tokenizer


class _Line(msgspec.Struct):
    """`prompt`, or `turns`, which are the user's side of a conversation."""

    prompt: str | None = None
    turns: list[str] = []
    output_tokens: int | None = None


def custom_conversations(config: DatasetConfig, tokenizer: Tokenizer) -> list[Conversation]:
    """The lines in random order; raises ValueError naming the line that is not of this form."""
    path = config.dataset_path
    assert path is not None
    decoder = msgspec.json.Decoder(_Line)
    found: list[Conversation] = []
    for number, line in enumerate(Path(path).read_bytes().splitlines(), start=1):
        if line.strip():
            try:
                found.append(Conversation(_turns(decoder.decode(line), config, tokenizer)))
            except ValueError as error:
                raise ValueError(f"dataset_path (--dataset-path): {path}, line {number}: {error}") from error
    if not found:
        raise ValueError(f"dataset_path (--dataset-path): {path} has no prompts")
    random.Random(config.seed).shuffle(found)
    return found[: config.num_prompts]


def _turns(line: _Line, config: DatasetConfig, tokenizer: Tokenizer) -> tuple[Turn, ...]:
    texts = (line.turns or ([] if line.prompt is None else [line.prompt]))[: config.num_turns]
    if not texts or not all(texts):
        raise ValueError("it has neither a prompt nor turns, or one of them is empty")
    output_len = config.output_len or line.output_tokens or config.custom_output_len
    counts = [len(ids) for ids in tokenizer.encode_batch(texts)]
    return tuple(as_turns(counts, texts, [output_len] * len(texts)))
