"""Tokenizers to test with: the demo's, and small ones trained here in the two families."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, trainers

from octavo.formats.gguf import GGUFFile
from octavo.tokenizer.load import load_tokenizer
from octavo.tokenizer.tokenizer import Tokenizer

CORPUS = [
    "The quick brown fox jumps over the lazy dog. The dog does not mind; the fox is quick.",
    "def main(argument: int) -> None:\n    for index in range(10):\n        print(index, argument)\n",
    "Größe, naïveté, ångström, Ελλάδα, Привет мир, 日本語のテキスト, 中文字符, 한국어, العربية",
    "In 1984 there were 365 days and 12345 stories; prices rose by 7.5% to $1,234.00!",
    "Emoji 😀 and 👩‍👩‍👧 are made of parts. \tTabs\t and   spaces   too.\r\n\r\nNew lines.",
] * 4

TEXTS = [
    "",
    " ",
    "a",
    "Hello, world!",
    "  two leading spaces and two trailing  ",
    "tabs\tand\t\tnew\n\n\nlines\r\n and \x0b odd \x0c ones \u00a0\u2003\u3000 end",
    "a" * 300,
    " " * 300 + "x",
    "\n" * 50,
    "0 1 12 123 1234 12345678901234567890 3.14 1e-5 ٣٤٥ ½ Ⅷ",
    "I'll they've we'RE don't o'clock 'S ''",
    "def f(x):\n\treturn {x: [y for y in range(10) if y % 2 == 0]}  # comment\n",
    "https://example.org/a?b=c&d=%20#e  <html>&amp;</html>",
    "naïve café Ångström Größe ﬁ ǆ ẞ",
    "e\u0301 n\u0303 a\u030a\u0301 (combining)",
    "日本語 中文字符 한국어 ไทย हिन्दी العربية עברית",
    "😀 👩‍👩‍👧‍👦 🇩🇪 👍🏽 ☃️ 𝔘𝔫𝔦 \U0010ffff",
    "zero\u200bwidth\u200djoin\ufeffbom \ufffd \x00 \x01 \x7f",
    "▁ meta ▁space▁ Ġ Ċ <0x41> </w> ##x",
    "<|im_start|>user\nhi<|im_end|>\n<|endoftext|>",
    "text<|im_end|>text <|im_end|> <|im_end|><|im_end|><|im_en d|> <|IM_END|>",
    "<s>a</s> <unk> <user> [INST] x [/INST]",
    "$1,000.00!!! ???... --- ___ *** (((([[[{{{ \\ \\n ``` ~~~",
]


@pytest.fixture(scope="session")
def texts() -> list[str]:
    return TEXTS


@pytest.fixture(scope="session")
def demo_metadata(demo_model: Path) -> dict[str, Any]:
    return GGUFFile(demo_model).metadata


@pytest.fixture(scope="session")
def demo_tokenizer(demo_model: Path) -> Tokenizer:
    return load_tokenizer(demo_model)


def train_byte_level() -> tokenizers.Tokenizer:
    """Llama-3-like: byte-level BPE, with added tokens that only decode well as themselves."""
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=500, initial_alphabet=alphabet))
    backend.add_special_tokens(["<s>", "</s>", "<｜odd▁bar｜>"])
    backend.add_tokens([AddedToken("<user>", normalized=False), AddedToken("two words", normalized=False)])
    return backend


def train_sentencepiece() -> tokenizers.Tokenizer:
    """Llama-2-like: BPE over U+2581 for spaces, byte fallback."""
    backend = tokenizers.Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    byte_tokens = [f"<0x{byte:02X}>" for byte in range(256)]
    backend.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    ascii_corpus = ["".join(character for character in text if character < "\u0250") for text in CORPUS]
    backend.train_from_iterator(
        ascii_corpus,
        trainers.BpeTrainer(vocab_size=600, special_tokens=["<unk>", "<s>", "</s>", *byte_tokens]),
    )
    # Bytes were named special only to be given the first ids; a real vocabulary has them as plain tokens.
    state = json.loads(backend.to_str())
    state["added_tokens"] = [
        entry for entry in state["added_tokens"] if not entry["content"].startswith("<0x")
    ]
    state["pre_tokenizer"] = None
    backend = tokenizers.Tokenizer.from_str(json.dumps(state))
    steps: list[Any] = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    backend.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)])
    backend.add_tokens([AddedToken("<user>", normalized=False)])
    return backend


@pytest.fixture(scope="session")
def byte_level() -> tokenizers.Tokenizer:
    return train_byte_level()


@pytest.fixture(scope="session")
def ours(byte_level: tokenizers.Tokenizer) -> Tokenizer:
    return Tokenizer(byte_level, {"bos_token": "<s>", "eos_token": "</s>"}, {})


@pytest.fixture(scope="session")
def sentencepiece() -> tokenizers.Tokenizer:
    return train_sentencepiece()
