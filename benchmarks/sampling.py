"""What sampling costs per row, by kind of request: the NumPy reference, and C++ on one and all threads.

python benchmarks/sampling.py --rows 32 --vocab 49152
"""

from __future__ import annotations

import argparse
import os
import timeit
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from octavo import _native
from octavo.machine.isa import choose_isa
from octavo.runtime.native_sampler import NativeSampler
from octavo.sampling.sampler import ReferenceSampler
from octavo.sampling.state import SamplingState
from octavo.sampling_params import SamplingParams

REQUESTS = {
    "greedy": {"temperature": 0.0},
    "temperature": {"temperature": 0.8},
    "top_p=0.95": {"temperature": 0.8, "top_p": 0.95},
    "top_p=0.95, hot": {"temperature": 2.0, "top_p": 0.95},
    "top_k=50": {"temperature": 0.8, "top_k": 50},
    "top_k=50 top_p=0.95": {"temperature": 0.8, "top_k": 50, "top_p": 0.95},
    "top_k=1000": {"temperature": 0.8, "top_k": 1000},
    "min_p=0.05": {"temperature": 0.8, "min_p": 0.05},
    "penalties": {"temperature": 0.0, "repetition_penalty": 1.1, "frequency_penalty": 0.5},
    "logprobs=5": {"temperature": 0.0, "logprobs": 5},
    "logprobs=20": {"temperature": 0.0, "logprobs": 20},
}
EOS = 2


def language_like_logits(rows: int, vocab: int) -> NDArray[np.float32]:
    """`[rows, vocab]` logits with a long tail and a few likely tokens, like a small model's."""
    rng = np.random.default_rng(0)
    logits = rng.normal(0.0, 2.0, (rows, vocab))
    for row in logits:
        row[rng.choice(vocab, 50, replace=False)] += rng.exponential(5.0, 50)
    return logits.astype(np.float32)


def microseconds_per_row(call: Callable[[], object], rows: int) -> float:
    """The best of several timings."""
    timer = timeit.Timer(call)
    number, _ = timer.autorange()
    return min(timer.repeat(repeat=3, number=number)) / number / rows * 1e6


def main() -> None:
    """Print a line for each kind of request."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rows", type=int, default=32, help="sequences in the step")
    parser.add_argument("--vocab", type=int, default=49152, help="tokens in the vocabulary")
    parser.add_argument("--logits", help="a .npy file of [rows, vocab] float32 logits to use instead")
    arguments = parser.parse_args()

    rows, vocab = arguments.rows, arguments.vocab
    logits = language_like_logits(rows, vocab)
    if arguments.logits:
        logits = np.load(arguments.logits)
        rows, vocab = logits.shape
    prompt = list(np.random.default_rng(1).integers(0, vocab, 220))
    isa, threads = choose_isa(), len(os.sched_getaffinity(0))
    samplers = {
        "NumPy": ReferenceSampler(),
        f"{isa}, 1 thread": NativeSampler(_native.Program(1, isa).sampler()),
        f"{isa}, {threads} threads": NativeSampler(_native.Program(threads, isa).sampler()),
    }
    print(f"{rows} rows, vocabulary {vocab}; microseconds per row")
    print(f"{'':24}" + "".join(f"{name:>18}" for name in samplers))
    for name, fields in REQUESTS.items():
        states = [
            SamplingState(SamplingParams(seed=row, **fields), prompt, prompt[:64], [EOS], vocab)  # type: ignore[arg-type]
            for row in range(rows)
        ]
        costs = [
            microseconds_per_row(lambda each=each, states=states: each.sample(logits, states), rows)  # type: ignore[misc]
            for each in samplers.values()
        ]
        print(f"{name:24}" + "".join(f"{cost:18.1f}" for cost in costs))


if __name__ == "__main__":
    main()
