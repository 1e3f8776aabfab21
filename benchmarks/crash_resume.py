"""What a client sees when the engine process is killed in the middle of its stream.

    python benchmarks/crash_resume.py [--model model.gguf] [--streams 16] [--tokens 256]

Runs the streams undisturbed, then again with `kill -9` of the engine process when half of the tokens are
there. Prints the longest wait between two outputs of a stream in both runs, and whether every stream got the
same tokens.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import time

from octavo import AsyncEngine, EngineConfig, SamplingParams


async def stream(
    engine: AsyncEngine, number: int, tokens: int, progress: list[int]
) -> tuple[list[int], float]:
    """The tokens of one stream, and its longest wait in seconds after the first."""
    params = SamplingParams(temperature=0.8, seed=number, max_tokens=tokens, ignore_eos=True)
    token_ids: list[int] = []
    waits, last = [0.0], None
    async for output in engine.generate(f"{number} sheep went", params, f"{id(progress)}-{number}"):
        now = time.perf_counter()
        if last is not None:
            waits.append(now - last)
        last = now
        progress[0] += len(output.outputs[0].token_ids) - len(token_ids)
        token_ids = list(output.outputs[0].token_ids)
    return token_ids, max(waits)


async def run_all(
    engine: AsyncEngine, streams: int, tokens: int, kill: bool
) -> tuple[list[list[int]], float]:
    """Every stream's tokens and the longest wait; with `kill`, the engine process dies half-way."""
    progress = [0]
    tasks = [asyncio.create_task(stream(engine, number, tokens, progress)) for number in range(streams)]
    if kill:
        while progress[0] < streams * tokens // 2:
            await asyncio.sleep(0.001)
        assert engine.pid is not None
        os.kill(engine.pid, signal.SIGKILL)
    results = await asyncio.gather(*tasks)
    return [token_ids for token_ids, _ in results], max(wait for _, wait in results)


async def measure(arguments: argparse.Namespace) -> None:
    """Run both and print what happened."""
    engine = await AsyncEngine.start(EngineConfig(model=arguments.model))
    try:
        wanted, usual = await run_all(engine, arguments.streams, arguments.tokens, kill=False)
        engine.reset_prefix_cache()
        given, longest = await run_all(engine, arguments.streams, arguments.tokens, kill=True)
    finally:
        await engine.stop()
    same = sum(left == right for left, right in zip(wanted, given, strict=True))
    print(f"{arguments.streams} streams of {arguments.tokens} tokens, {engine.num_restarts} engine killed")
    print(f"longest wait: {usual * 1e3:.0f} ms undisturbed, {longest * 1e3:.0f} ms with the kill")
    print(f"streams with the same tokens as undisturbed: {same} of {arguments.streams}")


def main() -> None:
    """Parse the arguments and measure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="", help="a GGUF file or a Hugging Face directory; default: demo")
    parser.add_argument("--streams", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=256, help="of each stream")
    asyncio.run(measure(parser.parse_args()))


if __name__ == "__main__":
    main()
