"""What prefix caching gives when requests begin alike: throughput and time to the first token, on and off.

    python benchmarks/prefix_caching.py [--model model.gguf] [--requests 64] [--prefix 2000]

All requests come at once, each with the shared prefix and some tokens of its own, so most of the gain with
the cache on is blocks that are still being computed when the others want them. Prints both runs, ratios
and whether every request got the same tokens.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from dataclasses import dataclass

from octavo import EngineConfig, SamplingParams
from octavo.bench.machine import this_machine
from octavo.engine.build import build_engine
from octavo.engine.messages import AddRequest
from octavo.model.load import read_spec, resolve_model


@dataclass
class Run:
    """One pass over all requests."""

    seconds: float
    ttft: list[float]
    tokens: dict[str, list[int]]
    num_cached: int

    def show(self, name: str) -> None:
        """Print its figures."""
        output = sum(map(len, self.tokens.values()))
        print(
            f"{name:10} {len(self.tokens) / self.seconds:8.2f} requests/s "
            f"{output / self.seconds:9.1f} output "
            f"tokens/s   TTFT p50 {1e3 * statistics.median(self.ttft):8.0f} ms   "
            f"{self.num_cached:,} prompt tokens cached"
        )


def run(arguments: argparse.Namespace, *, caching: bool) -> Run:
    """Run all requests on a new engine."""
    config = EngineConfig(model=arguments.model, enable_prefix_caching=caching)
    engine = build_engine(config)
    draw = random.Random(0)
    vocabulary = range(read_spec(resolve_model(config.model)).vocab_size)
    warm_up = draw.choices(vocabulary, k=256)
    prefix = draw.choices(vocabulary, k=arguments.prefix)
    prompts = [prefix + draw.choices(vocabulary, k=arguments.own) for _ in range(arguments.requests)]
    params = SamplingParams(temperature=0.0, seed=0, ignore_eos=True, max_tokens=arguments.output)
    engine.add(AddRequest("warm up", warm_up, params, [], 0.0))
    while engine.has_work:
        engine.step()

    started = time.perf_counter()
    for number, prompt in enumerate(prompts):
        engine.add(AddRequest(str(number), prompt, params, [], float(number)))
    tokens: dict[str, list[int]] = {}
    ttft, num_cached = [], 0
    while engine.has_work:
        for output in engine.step().outputs:
            if output.request_id not in tokens:
                ttft.append(time.perf_counter() - started)
                num_cached += output.num_cached_tokens
            tokens.setdefault(output.request_id, []).extend(output.token_ids)
    return Run(time.perf_counter() - started, ttft, tokens, num_cached)


def main() -> None:
    """Run with and without, and compare."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="", help="default: the demo model")
    parser.add_argument("--requests", type=int, default=64)
    parser.add_argument("--prefix", type=int, default=2000, help="tokens that all prompts begin with")
    parser.add_argument("--own", type=int, default=32, help="tokens of each prompt's own")
    parser.add_argument("--output", type=int, default=32, help="tokens that each request generates")
    arguments = parser.parse_args()
    print(*this_machine().lines(), sep="\n")
    on, off = run(arguments, caching=True), run(arguments, caching=False)
    on.show("cache on")
    off.show("cache off")
    print(
        f"throughput x {off.seconds / on.seconds:.1f}, "
        f"TTFT p50 x {statistics.median(on.ttft) / statistics.median(off.ttft):.3f}, "
        f"{'the same tokens' if on.tokens == off.tokens else 'DIFFERENT TOKENS'}"
    )


if __name__ == "__main__":
    main()
