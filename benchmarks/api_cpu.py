"""What the API process costs while clients stream: its share of one core, and microseconds a token.

    python benchmarks/api_cpu.py [--model MODEL.gguf] [--clients 16] [--chat] [--without-uvloop]

Starts `octavo serve`, keeps `--clients` streams open, each on a connection of its own with a prompt of about
220 tokens, and reads the CPU time of the API process and of the engine process from /proc before and after.
The aim is that 16 clients cost the API process under 15% of one core while the engine is saturated.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import socket
import subprocess
import sys
import time
from pathlib import Path

WORDS = ["the", "sea", "was", "calm", "and", "a", "small", "boat", "came", "slowly", "into", "harbour"]
SERVE = "import sys; {block}from octavo.cli.main import main; sys.exit(main())"
WITHOUT_UVLOOP = "sys.modules['uvloop'] = None; "
AIM = 0.15


def cpu_seconds(pid: int) -> float:
    """User and system time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def children(pid: int) -> list[int]:
    """Process ids of the children that the main thread started."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def request(rng: random.Random, arguments: argparse.Namespace) -> bytes:
    """A streaming request as HTTP/1.1 bytes."""
    text = " ".join(rng.choices(WORDS, k=200))
    body = {"max_tokens": arguments.tokens, "temperature": 0, "ignore_eos": True, "stream": True}
    if arguments.chat:
        path, body["messages"] = "/v1/chat/completions", [{"role": "user", "content": text}]
    else:
        path, body["prompt"] = "/v1/completions", text
    content = json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Connection: close\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    return head.encode() + content


async def exchange(port: int, data: bytes) -> bytes:
    """The whole response."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    response = await reader.read()
    writer.close()
    return response


async def load(port: int, arguments: argparse.Namespace, rounds: int, seed: int) -> int:
    """`rounds` requests by each client, one after the other; the number of tokens."""

    async def client(number: int) -> None:
        rng = random.Random(1000 * seed + number)
        for _ in range(rounds):
            response = await exchange(port, request(rng, arguments))
            if b"data: [DONE]" not in response:
                raise RuntimeError(f"a stream ended early: {response[-200:]!r}")

    await asyncio.gather(*(client(number) for number in range(arguments.clients)))
    return arguments.clients * rounds * arguments.tokens


async def measure(port: int, pid: int, arguments: argparse.Namespace) -> None:
    """Wait for the server, warm it, load it, print."""
    health = b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    while True:
        try:
            if b" 200 " in (await exchange(port, health)).partition(b"\r\n")[0]:
                break
        except OSError:
            await asyncio.sleep(0.05)
    await load(port, arguments, 1, seed=0)
    engines = children(pid)
    before, started = [cpu_seconds(each) for each in (pid, *engines)], time.perf_counter()
    tokens = await load(port, arguments, arguments.rounds, seed=1)
    seconds = time.perf_counter() - started
    api, *engine = [cpu_seconds(each) - was for each, was in zip((pid, *engines), before, strict=True)]
    verdict = "under" if api / seconds < AIM else "OVER"
    print(
        f"{arguments.clients} clients, {tokens / seconds:.0f} tokens/s: the API process takes "
        f"{api / seconds:.1%} of a core ({verdict} {AIM:.0%}), {api / tokens * 1e6:.0f} us a token; "
        f"the engine process {sum(engine) / seconds:.0%}"
    )


def main() -> None:
    """Run the server and the load."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", default="", help="a GGUF file or a directory; default: the demo model")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=128, help="tokens a stream")
    parser.add_argument("--rounds", type=int, default=4, help="streams a client, one after the other")
    parser.add_argument("--chat", action="store_true", help="chat completions instead of completions")
    parser.add_argument("--without-uvloop", action="store_true", help="asyncio's own event loop")
    arguments = parser.parse_args()

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    script = SERVE.format(block=WITHOUT_UVLOOP if arguments.without_uvloop else "")
    options = ["serve", *([arguments.model] if arguments.model else []), "--port", str(port)]
    server = subprocess.Popen(
        [sys.executable, "-c", script, *options, "--disable-log-requests"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        asyncio.run(asyncio.wait_for(measure(port, server.pid, arguments), 600))
    finally:
        server.terminate()
        server.wait()


if __name__ == "__main__":
    main()
