"""A compiler for the tokens of the demo model."""

from __future__ import annotations

from pathlib import Path

import pytest

from octavo.structured.compiler import GrammarCompiler
from octavo.tokenizer.load import load_tokenizer
from octavo.tokenizer.tokenizer import Tokenizer


@pytest.fixture(scope="session")
def tokenizer(demo_model: Path) -> Tokenizer:
    return load_tokenizer(demo_model)


@pytest.fixture(scope="session")
def compiler(tokenizer: Tokenizer) -> GrammarCompiler:
    """For logits that are wider than the vocabulary, as those of many models are."""
    return GrammarCompiler(lambda: tokenizer, tokenizer.vocab_size + 45, [2, 0])
