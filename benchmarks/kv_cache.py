"""A decode step over long contexts: by type of the KV cache, and with a beginning that sequences share.

    python benchmarks/kv_cache.py --model model.gguf

Runs the bare executable, no engine. "KV read" is what the step reads of the cache over the time that it takes
beyond a step without context, beside the read bandwidth that the machine shows just before.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import dataclass

import numpy as np

from octavo import _native
from octavo.config import EngineConfig
from octavo.engine.build import kv_cache_spec
from octavo.model.decoder import trace
from octavo.model.load import load_model
from octavo.runtime.backend import Batch, Limits
from octavo.runtime.kv_cache import BLOCK_SIZE
from octavo.runtime.native import NativeBackend, NativeExecutable

CASES = [(1, 8000, 0), (4, 8000, 0), (16, 2128, 0), (16, 2128, 2048), (64, 2128, 2048)]
MOST_SEQUENCES = 64
SHORT_CONTEXT = 16


@dataclass
class Bench:
    """An executable, and what a block of its KV cache takes."""

    executable: NativeExecutable
    block_bytes: int

    def step_seconds(self, sequences: int, context: int, shared: int, steps: int) -> float:
        """The median time of one token for each of `sequences`, whose first `shared` tokens are the same."""
        batch = decode_batch(sequences, context, shared)
        self.executable.run(batch)
        times = []
        for _ in range(steps):
            start = time.perf_counter()
            self.executable.run(batch)
            times.append(time.perf_counter() - start)
        return statistics.median(times)


def num_blocks(sequences: int, context: int, shared: int) -> int:
    """KV blocks that the sequences take together; `shared` is whole blocks."""
    return shared // BLOCK_SIZE + sequences * -(-(context - shared) // BLOCK_SIZE)


def decode_batch(sequences: int, context: int, shared: int) -> Batch:
    """One new token for each sequence."""
    common, own = shared // BLOCK_SIZE, -(-(context - shared) // BLOCK_SIZE)
    tables = np.empty((sequences, common + own), np.int32)
    tables[:, :common] = np.arange(common)
    tables[:, common:] = common + np.arange(sequences * own).reshape(sequences, own)
    return Batch(
        token_ids=np.arange(sequences, dtype=np.int32),
        positions=np.full(sequences, context - 1, np.int32),
        query_starts=np.arange(sequences + 1, dtype=np.int32),
        context_lens=np.full(sequences, context, np.int32),
        block_tables=tables[None],
        output_rows=np.arange(sequences, dtype=np.int32),
    )


def make(model: str, dtype: str) -> Bench:
    """An executable whose KV cache is large enough for every case, all of it written."""
    config = EngineConfig(model=model, kv_cache_dtype=dtype)
    loaded = load_model(config)
    spec = kv_cache_spec(config, trace(loaded.spec).cache_layers)
    limits = Limits(*[MOST_SEQUENCES] * 3, loaded.max_model_len, loaded.spec.vocab_size)
    executable = NativeBackend().compile(trace(loaded.spec), loaded.weights, spec, limits)
    blocks = max(num_blocks(*case) for case in CASES)
    executable.allocate_kv_cache(blocks)
    for block in range(blocks):
        executable.write_blocks([block], np.full((1, spec.block_bytes), 17, np.uint8))
    return Bench(executable, spec.block_bytes)


def main() -> None:
    """Print a row a case and type."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="", help="a GGUF file or a Hugging Face directory; default: demo")
    parser.add_argument("--types", nargs="+", default=["int16", "float16", "int8", "fp8"])
    parser.add_argument("--steps", type=int, default=15)
    arguments = parser.parse_args()

    print("| KV cache | sequences | context | shared | step | KV read | of the bandwidth |")
    print("|---|---|---|---|---|---|---|")
    for dtype in arguments.types:
        bench = make(arguments.model, dtype)
        isa, threads = bench.executable.isa, NativeBackend().threads
        for sequences, context, shared in CASES:
            bandwidth = _native.read_bandwidth(isa, threads, 1 << 28)
            base = bench.step_seconds(sequences, SHORT_CONTEXT, 0, arguments.steps)
            step = bench.step_seconds(sequences, context, shared, arguments.steps)
            read = num_blocks(sequences, context, shared) * bench.block_bytes / (step - base)
            print(
                f"| {dtype} | {sequences} | {context:,} | {shared:,} | {step * 1e3:.2f} ms "
                f"| {read / 1e9:.1f} GB/s | {read / bandwidth:.0%} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
