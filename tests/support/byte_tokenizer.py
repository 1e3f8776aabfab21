"""A tokenizer with a token for each byte: texts and token ids that a test can count by eye."""

from __future__ import annotations

import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from octavo.tokenizer.tokenizer import Tokenizer

EOS = 0
VOCAB_SIZE = 258
CHAT_TEMPLATE = (
    "{% for message in messages %}<{{ message.role }}>{{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def byte_tokenizer(chat_template: str | None = CHAT_TEMPLATE) -> Tokenizer:
    """Ids 0 and 1 are `<eos>` and `<bos>`, then one id for each byte, in the order of byte-level BPE."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {"<eos>": 0, "<bos>": 1} | {letter: number + 2 for number, letter in enumerate(alphabet)}
    backend = tokenizers.Tokenizer(models.BPE(vocab, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<eos>", "<bos>"])
    templates = {} if chat_template is None else {"default": chat_template}
    return Tokenizer(backend, {"eos_token": "<eos>", "bos_token": "<bos>"}, templates)
