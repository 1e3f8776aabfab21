"""What a prompt costs by its length: chunks of the default budget, fitted by a linear and a quadratic term.

    python benchmarks/prefill_cost.py --model model.gguf

Runs the bare executable, no engine. The linear term is the weights' work, the quadratic one attention's; a
cliff (a cache that a longer prompt no longer fits, say) would show as a length that the fit misses.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np

from octavo.config import EngineConfig
from octavo.engine.build import kv_cache_spec
from octavo.model.decoder import trace
from octavo.model.load import load_model
from octavo.runtime.backend import Batch, Limits
from octavo.runtime.kv_cache import BLOCK_SIZE
from octavo.runtime.native import NativeBackend, NativeExecutable

CHUNK = 512
LENGTHS = (512, 1024, 2048, 3072, 4096, 6144, 8192)


def prefill_seconds(executable: NativeExecutable, length: int) -> float:
    """A prompt of `length` tokens, chunk by chunk."""
    table = np.arange(-(-length // BLOCK_SIZE), dtype=np.int32)[None, None]
    start = time.perf_counter()
    for first in range(0, length, CHUNK):
        count = min(CHUNK, length - first)
        executable.run(
            Batch(
                token_ids=np.arange(count, dtype=np.int32),
                positions=np.arange(first, first + count, dtype=np.int32),
                query_starts=np.array([0, count], np.int32),
                context_lens=np.array([first + count], np.int32),
                block_tables=table,
                output_rows=np.array([count - 1], np.int32),
            )
        )
    return time.perf_counter() - start


def main() -> None:
    """Print a row a length."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="", help="a GGUF file or a Hugging Face directory; default: demo")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()

    config = EngineConfig(model=arguments.model)
    model = load_model(config)
    lengths = [length for length in LENGTHS if length <= model.max_model_len]
    program = trace(model.spec)
    executable = NativeBackend().compile(
        program,
        model.weights,
        kv_cache_spec(config, program.cache_layers),
        Limits(CHUNK, 1, 1, model.max_model_len, model.spec.vocab_size),
    )
    executable.allocate_kv_cache(-(-lengths[-1] // BLOCK_SIZE))
    prefill_seconds(executable, lengths[-1])  # touches every page
    # The lengths take turns: the machine's speed moves.
    times = [[prefill_seconds(executable, length) for length in lengths] for _ in range(arguments.rounds)]
    seconds = np.array([statistics.median(column) for column in zip(*times, strict=True)])

    tokens = np.array(lengths, np.float64)
    terms = np.stack([tokens, tokens**2], axis=1)
    weight = 1 / seconds  # the fit is of relative errors
    linear, quadratic = np.linalg.lstsq(terms * weight[:, None], seconds * weight, rcond=None)[0]
    fitted = terms @ np.array([linear, quadratic])
    print(f"{linear * 1e6:.1f} us a token and {quadratic * 1e9:.2f} ns a pair of tokens\n")
    print("| tokens | time | tokens/s | fit | off by |")
    print("|---|---|---|---|---|")
    for length, measured, expected in zip(lengths, seconds, fitted, strict=True):
        print(
            f"| {length:,} | {measured * 1e3:,.0f} ms | {length / measured:,.0f} "
            f"| {expected * 1e3:,.0f} ms | {measured / expected - 1:+.1%} |"
        )


if __name__ == "__main__":
    main()
