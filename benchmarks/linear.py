"""One linear of every encoding that the kernels run, at batch 1 and for a prompt, beside the ceilings.

    python benchmarks/linear.py [--rows 8192] [--cols 8192] [--isa avx512] [--encodings Q8_0,Q6_K]

The weight is larger than the caches, so that at batch 1 the memory bounds it. All encodings take turns.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np

from octavo.bench.roofline import measure_roofline
from octavo.formats.normalise import RUNS
from octavo.formats.tensor import Encoding, Tensor
from octavo.machine.isa import choose_isa
from octavo.runtime import native
from octavo.runtime.backend import Batch, Limits
from octavo.runtime.kv_cache import KVCacheSpec
from octavo.runtime.ops import Tracer

PROMPT = 256


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rows", type=int, default=8192)
    parser.add_argument("--cols", type=int, default=8192)
    parser.add_argument("--isa", default=choose_isa())
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--encodings", default=",".join(each.value for each in Encoding if each in RUNS))
    parser.add_argument("--turns", type=int, default=7)
    arguments = parser.parse_args()

    backend = native.NativeBackend(arguments.threads, arguments.isa)
    roofline = measure_roofline(arguments.isa, backend.threads)
    print(roofline.line())
    names = arguments.encodings.split(",")
    executables = {name: compile_linear(backend, Encoding(name), arguments) for name in names}
    seconds: dict[tuple[str, int], list[float]] = {(name, m): [] for name in names for m in (1, PROMPT)}
    for _ in range(arguments.turns):
        for (name, tokens), times in seconds.items():
            started = time.perf_counter()
            executables[name].run(batch(tokens))
            times.append(time.perf_counter() - started)
    print(
        f"{'':<8}{'bits':>6}{'batch 1':>12}{'reads':>12}{'share':>10}"
        f"{'prompt':>12}{'computes':>15}{'share':>8}"
    )
    for name in names:
        size = executables[name].weight_bytes
        alone, prompt = (statistics.median(seconds[name, m]) for m in (1, PROMPT))
        rate = PROMPT * arguments.rows * arguments.cols / prompt
        peak = roofline.float_rate if Encoding(name).is_float else roofline.integer_rate
        print(
            f"{name:<8}{8 * size / arguments.rows / arguments.cols:>6.2f}{alone * 1e3:>9.2f} ms"
            f"{size / alone / 1e9:>7.1f} GB/s{size / alone / roofline.read_bandwidth:>10.0%}"
            f"{prompt * 1e3:>9.1f} ms{rate / 1e9:>9.0f} GMAC/s{rate / peak:>8.0%}"
        )


def compile_linear(backend: native.NativeBackend, encoding: Encoding, arguments: argparse.Namespace):
    """An executable of an embedding and one linear."""
    rng = np.random.default_rng(0)
    rows, cols = arguments.rows, arguments.cols
    if encoding.group_size == 1:
        one = rng.standard_normal((16, cols), dtype=np.float32)
        kind = {Encoding.F32: np.float32, Encoding.F16: np.float16}.get(encoding)
        stored = one.astype(kind) if kind else (one.view(np.uint32) >> 16).astype(np.uint16)
        data = np.tile(stored, (-(-rows // 16), 1))[:rows].reshape(-1).view(np.uint8)
    else:
        # 55 in every byte of a scale makes it 0.45, and the power of two of MXFP4 a normal float16.
        data = np.full(rows * cols // encoding.group_size * encoding.group_bytes, 0x37, np.uint8)
        if encoding is Encoding.MXFP4:
            data.reshape(-1, 17)[:, 0] = 127
    tracer = Tracer()
    x = tracer.embedding("embed", PROMPT, cols)
    program = tracer.finish(tracer.linear(x, [("w", rows)]))
    weights = {
        "embed": Tensor.from_array(rng.standard_normal((PROMPT, cols), dtype=np.float32)),
        "w": Tensor((rows, cols), encoding, data),
    }
    limits = Limits(PROMPT, PROMPT, max_sequences=1, max_position=PROMPT, vocab_size=PROMPT)
    executable = backend.compile(program, weights, KVCacheSpec((), "float32"), limits)
    executable.allocate_kv_cache(PROMPT // 16)
    return executable


def batch(tokens: int) -> Batch:
    """One sequence of `tokens` tokens; every row an output."""
    ids = np.arange(tokens, dtype=np.int32)
    blocks = np.arange(-(-tokens // 16), dtype=np.int32)
    starts = np.array([0, tokens], np.int32)
    return Batch(ids, ids, starts, starts[1:].copy(), blocks[None, None].copy(), ids)


if __name__ == "__main__":
    main()
