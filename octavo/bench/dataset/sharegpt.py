"""Conversations that people had, in the form of the ShareGPT file that vLLM's benchmarks use."""

from __future__ import annotations

import random
from pathlib import Path

import msgspec

from octavo.bench.dataset.config import DatasetConfig
from octavo.bench.dataset.conversation import Conversation, Turn
from octavo.tokenizer.tokenizer import Tokenizer

SHORTEST = 4
LONGEST_PROMPT = 1024
LONGEST = 2048
"""Bounds in tokens; as in vLLM, what is outside of them is left out."""


class _Message(msgspec.Struct):
    value: str
    speaker: str = msgspec.field(name="from", default="")


class _Entry(msgspec.Struct):
    conversations: list[_Message] = []


def sharegpt_conversations(config: DatasetConfig, tokenizer: Tokenizer) -> list[Conversation]:
    """Conversations of the file in random order; raises ValueError when it is not of this form."""
    path = config.dataset_path
    assert path is not None
    try:
        entries = msgspec.json.decode(Path(path).read_bytes(), type=list[_Entry])
    except msgspec.DecodeError as error:
        raise ValueError(
            f"dataset_path (--dataset-path): {path} is not a list of conversations: {error}"
        ) from error
    random.Random(config.seed).shuffle(entries)
    found: list[Conversation] = []
    for entry in entries:
        turns = _turns(entry, config, tokenizer)
        if turns:
            found.append(Conversation(turns))
        if len(found) == config.num_prompts:
            break
    if not found:
        raise ValueError(
            f"dataset_path (--dataset-path): no conversation of {path} has a prompt of {SHORTEST} to "
            f"{LONGEST_PROMPT} tokens with an answer"
        )
    return found


def _turns(entry: _Entry, config: DatasetConfig, tokenizer: Tokenizer) -> tuple[Turn, ...]:
    """The first pairs of a prompt and an answer whose lengths are within the bounds."""
    turns: list[Turn] = []
    messages = entry.conversations
    fixed = config.output_len or config.sharegpt_output_len
    for prompt, answer in zip(messages[::2], messages[1::2], strict=False):
        if len(turns) == config.num_turns:
            break
        num_prompt, num_answer = map(len, tokenizer.encode_batch([prompt.value, answer.value]))
        output_len = fixed or num_answer
        if not SHORTEST <= num_prompt <= LONGEST_PROMPT:
            break
        if (fixed is None and num_answer < SHORTEST) or num_prompt + output_len > LONGEST:
            break
        turns.append(Turn(prompt.value, num_prompt, output_len))
    return tuple(turns)
