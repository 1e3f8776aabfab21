"""Octavo and llama.cpp's server under the same streaming load, taking turns on the same file.

    python benchmarks/serving.py MODEL.gguf --peer-bin LLAMA_CPP/build/bin

Each server is started, warmed by `--warm-up` requests, loaded by `--clients` concurrent streams for
`--requests` requests (about 220 prompt tokens, 64 tokens out, a fresh connection each), and stopped; then the
other one, `--rounds` times. Both have a KV cache for the same number of tokens. Prints output tokens a second
and the time to the first token, medians over rounds, with ratios. With `--shared-words N` every prompt begins
with the same N words.

On a virtual machine that hands free memory back to its host, the first touch of a page can cost a hundred
times as much as on others: warm until the whole KV cache was written, and both servers are past it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from octavo.runtime.kv_cache import BLOCK_SIZE

TEXT = """the sea was calm and a small boat came slowly into the harbour while the old man on the pier
looked at his watch and thought about the long winter that had just ended with so many days of rain"""
WORDS = TEXT.split()


@dataclass(slots=True)
class Load:
    """What one round of requests gave, times in seconds."""

    seconds: float = 0.0
    tokens: int = 0
    first_token: list[float] = field(default_factory=list)


async def stream(port: int, body: bytes, load: Load) -> None:
    """One request on a connection of its own; the server says how many tokens it gave."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 20)
    started = time.perf_counter()
    writer.write(
        b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    )
    first, tokens = None, 0
    async for line in reader:
        if not line.startswith(b"data: {"):
            continue
        chunk = json.loads(line[6:])
        if first is None:
            first = time.perf_counter() - started
        if usage := chunk.get("usage") or chunk.get("timings"):
            tokens = usage.get("completion_tokens") or usage.get("predicted_n", 0)
    writer.close()
    if first is None:
        raise RuntimeError("a stream ended without a token")
    load.tokens += tokens
    load.first_token.append(first)


async def run_load(port: int, bodies: list[bytes], clients: int) -> Load:
    """All requests, `clients` at a time."""
    load, queue = Load(), iter(bodies)

    async def client() -> None:
        for body in queue:
            await stream(port, body, load)

    started = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    load.seconds = time.perf_counter() - started
    return load


def make_bodies(count: int, seed: int, model: str, args: argparse.Namespace) -> list[bytes]:
    """Requests with different prompts; the same seed gives both servers the same ones."""
    rng = random.Random(seed)
    shared = " ".join(random.Random(0).choices(WORDS, k=args.shared_words))
    bodies = []
    for _ in range(count):
        own = " ".join(rng.choices(WORDS, k=args.prompt_words))
        request = {
            "model": model,
            "prompt": f"{shared} {own}".strip(),
            "max_tokens": args.output_tokens,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        bodies.append(json.dumps(request).encode())
    return bodies


async def wait_until_healthy(port: int, process: subprocess.Popen[bytes]) -> None:
    """Return when /health answers 200."""
    while process.poll() is None:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            status = await reader.readline()
            writer.close()
            if b" 200 " in status:
                return
        except OSError:
            pass
        await asyncio.sleep(0.02)
    raise RuntimeError("the server stopped before it was ready")


def measure(command: list[str], port: int, args: argparse.Namespace, round_: int) -> Load:
    """Start a server, warm it, load it, stop it."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        asyncio.run(wait_until_healthy(port, process))
        model = "model"
        asyncio.run(run_load(port, make_bodies(args.warm_up or args.clients, -1, model, args), args.clients))
        bodies = make_bodies(args.requests, round_, model, args)
        return asyncio.run(run_load(port, bodies, args.clients))
    finally:
        process.terminate()
        process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--peer-bin", type=Path, required=True, help="folder with llama-server")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--requests", type=int, default=64)
    parser.add_argument(
        "--warm-up", type=int, help="requests before those that count (default: one a client)"
    )
    parser.add_argument("--prompt-words", type=int, default=200)
    parser.add_argument("--shared-words", type=int, default=0)
    parser.add_argument("--output-tokens", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()

    slot = 64 + args.output_tokens + 2 * (args.prompt_words + args.shared_words)
    servers = {
        "octavo": [
            *(sys.executable, "-P", "-m", "octavo", "serve", args.model, "--port", "8141"),
            *("--served-model-name", "model", "--threads", str(args.threads)),
            *("--max-model-len", str(slot)),
            *("--num-gpu-blocks-override", str(slot * args.clients // BLOCK_SIZE)),
        ],
        "llama.cpp": [
            *(str(args.peer_bin / "llama-server"), "-m", args.model, "--port", "8142"),
            *("-t", str(args.threads), "-np", str(args.clients), "-c", str(slot * args.clients)),
        ],
    }
    loads: dict[str, list[Load]] = {name: [] for name in servers}
    for round_ in range(args.rounds):
        for (name, command), port in zip(servers.items(), (8141, 8142), strict=True):
            loads[name].append(measure(command, port, args, round_))

    def median(name: str, of: Callable[[Load], float]) -> float:
        return statistics.median(of(load) for load in loads[name])

    print(f"{args.clients} clients, {args.requests} requests, {args.rounds} rounds, {args.threads} threads")
    for title, of in {
        "output tok/s": lambda load: load.tokens / load.seconds,
        "TTFT p50, s": lambda load: statistics.median(load.first_token),
        "TTFT max, s": lambda load: max(load.first_token),
    }.items():
        ours, theirs = median("octavo", of), median("llama.cpp", of)
        print(f"{title:14} octavo {ours:9.3f}   llama.cpp {theirs:9.3f}   ratio {ours / theirs:.2f}")


if __name__ == "__main__":
    main()
