"""Prompts of lines of verse after a beginning that they share, as a cache for prefixes likes them."""

from __future__ import annotations

import random
from pathlib import Path

from octavo.bench.dataset.config import DatasetConfig
from octavo.bench.dataset.conversation import Conversation, as_turns
from octavo.tokenizer.tokenizer import Tokenizer

_INSTRUCTION = "Pick as many lines as you can from these poem lines:\n"
_ADJECTIVES = (
    "quiet",
    "golden",
    "bitter",
    "gentle",
    "idle",
    "fading",
    "broken",
    "silver",
    "distant",
    "weary",
)
_NOUNS = (
    "morning",
    "garden",
    "river",
    "summer",
    "shadow",
    "winter",
    "harbour",
    "candle",
    "mountain",
    "letter",
)
_VERBS = ("remembers", "forgets", "follows", "borrows", "carries", "answers", "gathers", "crosses", "keeps")
_NUM_LINES = 500


def verses(seed: int) -> list[str]:
    """Lines made of a few words; the same seed gives the same ones."""
    draw = random.Random(seed)
    return [
        f"The {draw.choice(_ADJECTIVES)} {draw.choice(_NOUNS)} {draw.choice(_VERBS)} "
        f"my {draw.choice(_ADJECTIVES)} {draw.choice(_NOUNS)},"
        for _ in range(_NUM_LINES)
    ]


def sonnet_conversations(config: DatasetConfig, tokenizer: Tokenizer) -> list[Conversation]:
    """Prompts of about `sonnet_input_len` tokens, to the nearest line, and their answers' lengths.

    Raises ValueError for a file without lines, or a prefix that leaves no room in the prompt.
    """
    lines = verses(config.seed)
    if config.dataset_path is not None:
        text = Path(config.dataset_path).read_text(encoding="utf-8", errors="replace")
        lines = [line for line in text.splitlines() if line.strip()]
        if not lines:
            raise ValueError(f"dataset_path (--dataset-path): {config.dataset_path} has no lines")
    input_len = config.input_len or config.sonnet_input_len
    output_len = config.output_len or config.sonnet_output_len
    if config.sonnet_prefix_len > input_len:
        raise ValueError(
            f"sonnet_prefix_len (--sonnet-prefix-len) {config.sonnet_prefix_len} is over the "
            f"prompt's {input_len}"
        )
    per_line = sum(map(len, tokenizer.encode_batch([f"{line}\n" for line in lines], False))) / len(lines)
    instruction = len(tokenizer.encode(_INSTRUCTION))
    num_shared = max(0, round((config.sonnet_prefix_len - instruction) / per_line))
    num_lines = max(1, round((input_len - instruction) / per_line))
    draw = random.Random(config.seed)
    shared = draw.choices(lines, k=num_shared)
    turns = []
    for number in range(config.num_turns):
        texts = []
        for _ in range(config.num_prompts):
            own = draw.choices(lines, k=num_lines - num_shared if number == 0 else num_lines)
            texts.append(_INSTRUCTION + "\n".join((*shared, *own) if number == 0 else own))
        counts = [len(ids) for ids in tokenizer.encode_batch(texts)]
        turns.append(as_turns(counts, texts, [output_len] * len(texts)))
    return [Conversation(each) for each in zip(*turns, strict=True)]
