"""The demo model's greedy continuations are those of transformers on the same dequantised weights."""

from __future__ import annotations

import numpy as np
import pytest
from support.batches import Chunk, make_batch
from support.tiny_models import expected_logits

from octavo.runtime.backend import LogitsExecutable
from octavo.runtime.kv_cache import BLOCK_SIZE
from octavo.tokenizer.load import load_tokenizer

PROMPTS = [
    "The capital of France is",
    "Once upon a time, in a village by the sea,",
    "def fibonacci(n):\n",
    "To make a good cup of tea, first",
    "1, 1, 2, 3, 5, 8,",
    "The three laws of thermodynamics say that",
    "Dear Sir or Madam,\n\nI am writing to",
    "Q: Why is the sky blue?\nA:",
    "La biblioteca está",
    "import numpy as np\n\n# Multiply two matrices\n",
]
NUM_TOKENS = 64


def greedy(executable: LogitsExecutable, prompts: list[list[int]], num_tokens: int) -> list[list[int]]:
    """Continue all prompts in one batch: prefill in one step, then decode together."""
    blocks = [-(-(len(prompt) + num_tokens) // BLOCK_SIZE) for prompt in prompts]
    executable.allocate_kv_cache(sum(blocks))
    starts = np.cumsum([0, *blocks])
    tables = [list(range(start, start + count)) for start, count in zip(starts, blocks, strict=False)]
    sequences, done = [list(prompt) for prompt in prompts], [0] * len(prompts)
    for _ in range(num_tokens):
        chunks = [Chunk(*each) for each in zip(sequences, done, tables, strict=True)]
        logits = executable.run(make_batch(chunks))
        done = [len(sequence) for sequence in sequences]
        for sequence, token in zip(sequences, logits.argmax(axis=1).tolist(), strict=True):
            sequence.append(token)
    return [sequence[len(prompt) :] for sequence, prompt in zip(sequences, prompts, strict=True)]


@pytest.mark.parametrize(
    ("backend", "prompts", "num_tokens"),
    [("native", PROMPTS, NUM_TOKENS), ("reference", PROMPTS[:1], 4)],
    indirect=["backend"],
)
def test_greedy_tokens_are_those_of_transformers(
    backend, prompts, num_tokens, demo_model, compile_model, transformers_demo
):
    """Each token is transformers' most likely one after all before it: by induction, its greedy ones."""
    tokenizer = load_tokenizer(demo_model)
    encoded = [tokenizer.encode(prompt) for prompt in prompts]
    _, executable = compile_model(demo_model, backend, dtype="float32", kv_dtype="float32")
    for prompt, tokens in zip(encoded, greedy(executable, encoded, num_tokens), strict=True):
        logits = expected_logits(transformers_demo, prompt + tokens[:-1])
        assert logits[len(prompt) - 1 :].argmax(axis=1).tolist() == tokens
