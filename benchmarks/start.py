"""How long an engine takes to start from a file on the disk, beside reading it, and in how much memory.

    python benchmarks/start.py model.gguf [DIRECTORY ...] [--quantization int8] [--rounds 3]

Each round, for each model, with the file dropped from the page cache before each of the first three:

    direct      reads it past the page cache (O_DIRECT, 4 MiB at a time): what the disk gives
    buffered    reads it as `cat` does
    first start builds an engine in a new process that has to pack the weights
    second      builds one from the packed file that the first has left

A start is timed from the call that builds the engine to the engine, and its memory is the process's largest
resident size beyond what it had before the call, files that it maps included. Reads and starts take turns,
for disks that are shared do not keep a speed; a ratio is of the medians. random_gguf.py makes models of any
size. Needs Linux, and a file system that has O_DIRECT.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

_PIECE = 4 << 20

_START = """
import json, sys, time
from octavo.config import EngineConfig
from octavo.engine.build import build_engine

def largest():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) << 10 for line in file if line.startswith("VmHWM"))

before, began = largest(), time.perf_counter()
engine = build_engine(EngineConfig(model=sys.argv[1], quantization=sys.argv[2] or None,
                                   max_model_len=512, kv_cache_memory_bytes=64 << 20))
seconds = time.perf_counter() - began
print(json.dumps([seconds, largest() - before, engine._executable.weight_bytes]), flush=True)
"""


def files_of(model: Path) -> list[Path]:
    """The files that hold the weights."""
    return sorted(model.glob("*.safetensors")) if model.is_dir() else [model]


def drop(model: Path) -> None:
    """Take the files out of the page cache."""
    for path in files_of(model):
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read(model: Path, flags: int) -> float:
    """Seconds that reading the files takes."""
    memory = mmap.mmap(-1, _PIECE)
    memory.write(bytes(_PIECE))
    began = time.perf_counter()
    for path in files_of(model):
        file = os.open(path, os.O_RDONLY | flags)
        while os.readv(file, [memory]) == _PIECE:
            pass
        os.close(file)
    return time.perf_counter() - began


def start(model: Path, quantization: str, cache: str) -> tuple[float, int, int]:
    """Seconds, resident bytes and bytes of weights of a start with `cache` as octavo's directory."""
    command = [sys.executable, "-c", _START, str(model), quantization]
    output = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, text=True, env={**os.environ, "OCTAVO_CACHE": cache}
    ).stdout
    seconds, resident, weights = json.loads(output)
    return seconds, resident, weights


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--quantization", default="", help="rounds 16-bit models on load: int8, int4, fp8")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    print("| model | MiB | direct | buffered | first start | of direct | memory, of packed | second start |")
    print("|---|---|---|---|---|---|---|---|")
    for model in arguments.models:
        direct, buffered, first, second = [], [], [], []
        memory = 0.0
        for _ in range(arguments.rounds):
            drop(model)
            direct.append(read(model, os.O_DIRECT))
            drop(model)
            buffered.append(read(model, 0))
            with tempfile.TemporaryDirectory(dir=model.parent) as cache:
                drop(model)
                seconds, resident, weights = start(model, arguments.quantization, cache)
                first.append(seconds)
                memory = max(memory, resident / weights)
                second.append(start(model, arguments.quantization, cache)[0])
        size = sum(path.stat().st_size for path in files_of(model)) / 2**20
        cells = [statistics.median(each) for each in (direct, buffered, first)]
        print(
            f"| {model.name} {arguments.quantization} | {size:,.0f} | "
            + " | ".join(f"{each:.2f} s" for each in cells)
            + f" | {cells[2] / cells[0]:.2f} | {memory:.2f} | {statistics.median(second):.2f} s |",
            flush=True,
        )


if __name__ == "__main__":
    main()
