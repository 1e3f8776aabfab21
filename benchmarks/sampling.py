"""What sampling costs per row, by kind of request, beside the floor: one argmax over the vocabulary.

python benchmarks/sampling.py --rows 32 --vocab 49152
"""

from __future__ import annotations

import argparse
import timeit

import numpy as np

from octavo.sampling.sampler import sample
from octavo.sampling.state import SamplingState
from octavo.sampling_params import SamplingParams

REQUESTS = {
    "greedy": {"temperature": 0.0},
    "temperature": {"temperature": 0.8},
    "top_p=0.95": {"temperature": 0.8, "top_p": 0.95},
    "top_k=50": {"temperature": 0.8, "top_k": 50},
    "top_k=50 top_p=0.95": {"temperature": 0.8, "top_k": 50, "top_p": 0.95},
    "min_p=0.05": {"temperature": 0.8, "min_p": 0.05},
    "penalties": {"temperature": 0.0, "repetition_penalty": 1.1, "frequency_penalty": 0.5},
    "logprobs=5": {"temperature": 0.0, "logprobs": 5},
    "logprobs=-1": {"temperature": 0.0, "logprobs": -1},
}
EOS = 2


def language_like_logits(rows: int, vocab: int) -> np.ndarray:
    """`[rows, vocab]` logits with a long tail and a few likely tokens, like a small model's."""
    rng = np.random.default_rng(0)
    logits = rng.normal(0.0, 2.0, (rows, vocab))
    for row in logits:
        row[rng.choice(vocab, 50, replace=False)] += rng.exponential(5.0, 50)
    return logits.astype(np.float32)


def microseconds_per_row(call: object, rows: int) -> float:
    """The best of several timings."""
    timer = timeit.Timer(call)  # type: ignore[arg-type]
    number, _ = timer.autorange()
    return min(timer.repeat(repeat=3, number=number)) / number / rows * 1e6


def main() -> None:
    """Print a line for each kind of request."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rows", type=int, default=32, help="sequences in the step")
    parser.add_argument("--vocab", type=int, default=49152, help="tokens in the vocabulary")
    arguments = parser.parse_args()

    rows, vocab = arguments.rows, arguments.vocab
    logits = language_like_logits(rows, vocab)
    prompt = list(np.random.default_rng(1).integers(0, vocab, 220))
    print(f"{rows} rows, vocabulary {vocab}, NumPy {np.__version__}; microseconds per row")
    print(f"{'one argmax (floor)':24}{microseconds_per_row(lambda: logits.argmax(axis=1), rows):9.1f}")
    for name, fields in REQUESTS.items():
        states = [
            SamplingState(SamplingParams(seed=row, **fields), prompt, prompt[:64], [EOS], vocab)  # type: ignore[arg-type]
            for row in range(rows)
        ]
        cost = microseconds_per_row(lambda states=states: sample(logits, states), rows)
        print(f"{name:24}{cost:9.1f}")


if __name__ == "__main__":
    main()
