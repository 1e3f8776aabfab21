"""What each format costs in quality, and gives in size and speed: one table, from one run.

    python benchmarks/quality_table.py --text text.txt --calibration calibration.txt --work DIR \
        --peer-bin llama.cpp/build/bin

The original is a model dequantised to float32, by default the demo. It is quantised in every format of
`octavo quantize` and, with `--peer-bin`, of llama-quantize. Perplexity is of the text's first `--tokens`
tokens, in windows of 512 that do not overlap (see perplexity.py, which says where to get a text); KL is the
mean over those tokens of the divergence of the model's next-token distribution from the original's. The
calibration text must be another part of the text, or another one. All files are scored by octavo, and timed
by octavo and llama-bench. What is made in DIR is used again by a later run.

The demo's weights are on a grid of 4 bits with a minimum for each 32 (Q4_1): the formats that have the same
grid, Q4_1 in GGUF, give it back without error and say nothing; they are marked.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from perplexity import choose_backend

from octavo.config import EngineConfig
from octavo.model.decoder import trace
from octavo.model.load import load_model
from octavo.quantise.config import QuantiseConfig
from octavo.quantise.job import quantise
from octavo.runtime.backend import Batch, Limits, LogitsExecutable
from octavo.runtime.kv_cache import BLOCK_SIZE, KVCacheSpec
from octavo.tokenizer.load import load_tokenizer

WINDOW = 512
DECODED = 48
"""Tokens that are decoded one at a time behind a window, for the speed."""

OURS: dict[str, dict[str, object]] = {
    "int8": {"format": "int8"},
    "fp8": {"format": "fp8"},
    "fp8 gptq": {"format": "fp8", "method": "gptq"},
    "int4": {"format": "int4"},
    "int4 awq": {"format": "int4", "method": "awq"},
    "int4 gptq": {"format": "int4", "method": "gptq"},
    "int4 zero points, 64": {"format": "int4", "zero_points": True, "group_size": 64},
    "int4 zero points, 64, awq": {"format": "int4", "zero_points": True, "group_size": 64, "method": "awq"},
    "int4 zero points, 64, gptq": {"format": "int4", "zero_points": True, "group_size": 64, "method": "gptq"},
    "gguf-q8_0": {"format": "gguf-q8_0"},
    "gguf-q4_1": {"format": "gguf-q4_1"},
    "gguf-q4_0": {"format": "gguf-q4_0"},
}
THEIRS = ("Q8_0", "Q6_K", "Q5_K_M", "Q5_0", "Q4_K_M", "IQ4_NL", "Q4_1", "Q4_0", "Q3_K_M")
SAME_GRID = ("gguf-q4_1", "llama.cpp Q4_1")


@dataclass
class Row:
    """One format's figures; speeds in tokens a second."""

    name: str
    mebibytes: float
    perplexity: float
    kl: float
    prefill: float
    decode: float
    peer_prefill: float = 0.0
    peer_decode: float = 0.0


def compiled(path: Path) -> LogitsExecutable:
    """The model at `path` with room for a window and what is decoded behind it."""
    model = load_model(EngineConfig(model=str(path), max_model_len=WINDOW + DECODED))
    spec = model.spec
    kv_cache = KVCacheSpec(trace(spec).cache_layers, "int16")
    limits = Limits(WINDOW, WINDOW, 1, model.max_model_len, spec.vocab_size)
    executable = choose_backend("native", None).compile(trace(spec), model.weights, kv_cache, limits)
    executable.allocate_kv_cache(-(-(WINDOW + DECODED) // BLOCK_SIZE))
    return executable


def step(executable: LogitsExecutable, tokens: np.ndarray, first: int, outputs: int) -> np.ndarray:
    """The logits of the last `outputs` of `tokens`, which are at the positions from `first` on."""
    count = len(tokens)
    return executable.run(
        Batch(
            token_ids=np.ascontiguousarray(tokens, np.int32),
            positions=np.arange(first, first + count, dtype=np.int32),
            query_starts=np.array([0, count], np.int32),
            context_lens=np.array([first + count], np.int32),
            block_tables=np.arange(-(-(first + count) // BLOCK_SIZE), dtype=np.int32)[None, None],
            output_rows=np.arange(count - outputs, count, dtype=np.int32),
        )
    )


def log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def score(
    path: Path, windows: np.ndarray, original: np.ndarray | None, keep: np.ndarray | None
) -> tuple[float, float]:
    """Perplexity and KL from `original`, `[windows, WINDOW, vocabulary]`; puts its own into `keep`."""
    executable = compiled(path)
    surprise, divergence = [], []
    for number, tokens in enumerate(windows):
        logprobs = log_softmax(step(executable, tokens, 0, WINDOW))
        surprise.append(-logprobs[np.arange(WINDOW - 1), tokens[1:]].mean(dtype=np.float64))
        if keep is not None:
            keep[number] = logprobs
        if original is not None:
            theirs = original[number]
            divergence.append((np.exp(theirs) * (theirs - logprobs)).sum(axis=1).mean(dtype=np.float64))
    return float(np.exp(np.mean(surprise))), float(np.mean(divergence)) if divergence else 0.0


def speed(path: Path, tokens: np.ndarray, rounds: int) -> tuple[float, float]:
    """Tokens a second of a prompt of a window and of decoding behind it, the best of `rounds`."""
    executable = compiled(path)
    prefill, decode = [], []
    for _ in range(rounds):
        began = time.perf_counter()
        step(executable, tokens, 0, 1)
        between = time.perf_counter()
        for position in range(WINDOW, WINDOW + DECODED):
            step(executable, tokens[:1], position, 1)
        prefill.append(WINDOW / (between - began))
        decode.append(DECODED / (time.perf_counter() - between))
    return max(prefill), max(decode)


def peer_speed(binaries: Path, file: Path, rounds: int) -> tuple[float, float]:
    """The same by llama-bench."""
    command = [str(binaries / "llama-bench"), "-m", str(file), "-p", str(WINDOW), "-n", str(DECODED)]
    output = subprocess.run(
        [*command, "-r", str(rounds), "-t", "2", "-o", "json"], check=True, capture_output=True, text=True
    ).stdout
    best = {bool(each["n_gen"]): max(each["samples_ts"]) for each in json.loads(output)}
    return best[False], best[True]


def main() -> None:
    """Make what is missing in the working directory, score and time it, print the table in Markdown."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="")
    parser.add_argument("--text", required=True)
    parser.add_argument("--calibration", required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--peer-bin", type=Path)
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    work: Path = arguments.work
    work.mkdir(exist_ok=True, parents=True)

    original = work / "original"
    if not (original / "config.json").exists():
        quantise(QuantiseConfig(model=arguments.model, output=str(original), format="f32"))
    files = {"float32": original}
    for name, settings in OURS.items():
        suffix = ".gguf" if str(settings["format"]).startswith("gguf") else ""
        path = files[name] = work / (name.replace(" ", "-").replace(",", "") + suffix)
        calibration = arguments.calibration if "method" in settings else None
        if not (path if suffix else path / "config.json").exists():
            print(f"quantising: {name}", file=sys.stderr)
            config = QuantiseConfig(
                model=str(original), output=str(path), calibration=calibration, **settings
            )
            quantise(config)
    if arguments.peer_bin:
        source = work / "f32.gguf"
        if not source.exists():
            quantise(QuantiseConfig(model=str(original), output=str(source), format="gguf-f32"))
        for kind in THEIRS:
            path = files[f"llama.cpp {kind}"] = work / f"llama-{kind}.gguf"
            if not path.exists():
                command = [str(arguments.peer_bin / "llama-quantize"), str(source), str(path), kind]
                subprocess.run(command, check=True, capture_output=True)

    text = Path(arguments.text).read_text(encoding="utf-8")
    ids = load_tokenizer(original).encode(text[: arguments.tokens * 16], add_special_tokens=False)
    windows = np.array(ids[: arguments.tokens // WINDOW * WINDOW], np.int32).reshape(-1, WINDOW)
    vocabulary = load_model(EngineConfig(model=str(original))).spec.vocab_size
    kept = np.memmap(work / "logprobs", np.float32, "w+", shape=(*windows.shape, vocabulary))
    rows = []
    for name, path in files.items():
        first = name == "float32"
        perplexity, kl = score(path, windows, None if first else kept, kept if first else None)
        size = sum(each.stat().st_size for each in (path.glob("*.safetensors") if path.is_dir() else [path]))
        row = Row(name, size / 2**20, perplexity, kl, *speed(path, windows[0], arguments.rounds))
        if name.startswith("llama.cpp"):
            row.peer_prefill, row.peer_decode = peer_speed(arguments.peer_bin, path, arguments.rounds)
        print(row, file=sys.stderr, flush=True)
        rows.append(row)
    (work / "logprobs").unlink()

    base = rows[0].perplexity
    print(
        "| format | MiB | perplexity | | KL | prefill tok/s | decode tok/s | llama.cpp's |\n"
        "|---|---|---|---|---|---|---|---|"
    )
    for row in rows:
        mark = " (same grid)" if row.name in SAME_GRID else ""
        peer = f"{row.peer_prefill:,.0f}, {row.peer_decode:,.0f}" if row.peer_decode else ""
        print(
            f"| {row.name}{mark} | {row.mebibytes:.0f} | {row.perplexity:.2f} "
            f"| {row.perplexity / base - 1:+.1%} | {row.kl:.4f} | {row.prefill:,.0f} "
            f"| {row.decode:,.0f} | {peer} |"
        )


if __name__ == "__main__":
    main()
