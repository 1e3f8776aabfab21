"""Steps of the bare executable, no scheduler and no sampling, beside what the machine allows.

    python benchmarks/roofline.py [--model model.gguf] [--isa avx2] [--context 192]

Each line is the median of many steps: a prefill of 512 tokens, then one token for each of 1 to 64
sequences whose context is as long as `--context`. The ceiling is that of `octavo.bench.roofline`: the longer
of reading the weights and the KV cache at the measured bandwidth, and of the multiply-adds at the measured
rates.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time

import numpy as np

from octavo.bench.machine import this_machine
from octavo.bench.roofline import count_work, measure_roofline
from octavo.bench.workload import Workload
from octavo.config import EngineConfig
from octavo.machine.isa import choose_isa
from octavo.model.decoder import trace
from octavo.model.load import load_model
from octavo.runtime.backend import Batch, Limits
from octavo.runtime.kv_cache import BLOCK_SIZE, KVCacheSpec
from octavo.runtime.native import NativeBackend, NativeExecutable

PREFILL = 512
BATCHES = (1, 2, 4, 8, 16, 32, 64)


def random_batch(rng: np.random.Generator, sequences: int, context: int, new: int, vocab: int) -> Batch:
    """`sequences` of `context` tokens, the last `new` of which are in this step."""
    blocks = -(-context // BLOCK_SIZE)
    counted = np.arange(sequences, dtype=np.int32)
    return Batch(
        token_ids=rng.integers(0, vocab, sequences * new, dtype=np.int32),
        positions=np.tile(np.arange(context - new, context, dtype=np.int32), sequences),
        query_starts=np.arange(sequences + 1, dtype=np.int32) * new,
        context_lens=np.full(sequences, context, dtype=np.int32),
        block_tables=np.arange(sequences * blocks, dtype=np.int32).reshape(1, sequences, blocks),
        output_rows=(counted + 1) * new - 1,
    )


def median_seconds(executable: NativeExecutable, batch: Batch, seconds: float) -> float:
    """The median time of a step, over at least five steps and `seconds`."""
    executable.run(batch)
    times: list[float] = []
    while len(times) < 5 or sum(times) < seconds:
        started = time.perf_counter()
        executable.run(batch)
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def main() -> None:
    """Print a line for each batch."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="", help="a GGUF file or a Hugging Face directory; default: demo")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--isa", default=choose_isa(), help="the ISA tier; default: the best there is")
    parser.add_argument("--context", type=int, default=192, help="tokens of each decoding sequence")
    parser.add_argument("--seconds", type=float, default=1.0, help="how long each line is measured for")
    arguments = parser.parse_args()

    model = load_model(EngineConfig(model=arguments.model))
    spec, program = model.spec, trace(model.spec)
    kv_cache = KVCacheSpec(program.cache_layers, "int16")
    limits = Limits(PREFILL, max(BATCHES), max(BATCHES), model.max_model_len, spec.vocab_size)
    executable = NativeBackend(arguments.threads, arguments.isa).compile(
        program, model.weights, kv_cache, limits
    )
    executable.allocate_kv_cache(
        max(PREFILL // BLOCK_SIZE, max(BATCHES) * -(-arguments.context // BLOCK_SIZE))
    )
    work = count_work(program, model.weights, kv_cache, executable.weight_bytes)
    roofline = measure_roofline(arguments.isa, arguments.threads)
    for line in (*this_machine().lines(), roofline.line()):
        print(line)
    print(f"weights {work.weight_bytes / 1e6:.1f} MB, KV cache {work.kv_position_bytes / 1e3:.1f} kB a token")

    rng = np.random.default_rng(0)
    steps = [(Workload(kind="prefill", prompt_tokens=PREFILL), PREFILL, PREFILL)]
    for batch in BATCHES:
        decode = Workload(kind="decode", prompt_tokens=arguments.context - 1, batch=batch)
        steps.append((decode, arguments.context, 1))
    print(f"{'':22}{'tokens/s':>10}{'step ms':>9}{'GB/s':>7}{'int8 G/s':>10}{'ceiling':>10}{'share':>7}")
    for workload, context, new in steps:
        batch = random_batch(rng, workload.batch, context, new, spec.vocab_size)
        seconds = median_seconds(executable, batch, arguments.seconds)
        rate = workload.batch * new / seconds
        ceiling = work.ceiling(workload, roofline)
        print(
            f"{workload.name if new > 1 else f'decode, batch {workload.batch}':22}{rate:>10,.0f}"
            f"{seconds * 1e3:>9.2f}{work.step_bytes(workload) / seconds / 1e9:>7.1f}"
            f"{work.step_macs(workload)[0] / seconds / 1e9:>10,.0f}"
            f"{ceiling.tokens_per_second:>10,.0f}{rate / ceiling.tokens_per_second:>7.0%}"
        )


if __name__ == "__main__":
    main()
