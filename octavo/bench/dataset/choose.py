"""From the flags to the conversations."""

from __future__ import annotations

import itertools

from octavo.bench.dataset.config import DatasetConfig
from octavo.bench.dataset.conversation import Conversation
from octavo.bench.dataset.custom import custom_conversations
from octavo.bench.dataset.random_words import random_conversations
from octavo.bench.dataset.sharegpt import sharegpt_conversations
from octavo.bench.dataset.sonnet import sonnet_conversations
from octavo.tokenizer.tokenizer import Tokenizer

_KINDS = {
    "random": random_conversations,
    "sonnet": sonnet_conversations,
    "sharegpt": sharegpt_conversations,
    "custom": custom_conversations,
}


def make_conversations(config: DatasetConfig, tokenizer: Tokenizer) -> list[Conversation]:
    """`num_prompts` conversations; those of a file with fewer come again.

    Raises ValueError when the file can not be read or has none that will do.
    """
    try:
        found = _KINDS[config.dataset_name](config, tokenizer)
    except OSError as error:
        raise ValueError(f"dataset_path (--dataset-path): {error}") from error
    return list(itertools.islice(itertools.cycle(found), config.num_prompts))
