"""What the tiers behind the KV cache give: long prompts that come again after their blocks were evicted.

    python benchmarks/kv_offload.py [--model model.gguf] [--prompts 6] [--length 2000]

The KV cache has room for two prompts. All are computed once, then each comes again, one after the other, with
another last token. That is done without a tier, with host memory, and with a disk whose engine is another one
the second time. Prints the time to the first token of the second round and whether all gave the same tokens.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from dataclasses import dataclass
from typing import Any

from octavo import EngineConfig, SamplingParams
from octavo.bench.machine import this_machine
from octavo.engine.build import build_engine
from octavo.engine.engine import Engine
from octavo.engine.kv.block_pool import blocks_for
from octavo.engine.messages import AddRequest
from octavo.model.load import read_spec, resolve_model

OUTPUT = 8


@dataclass
class Answer:
    """What one request gave."""

    ttft: float
    tokens: list[int]
    num_cached: int


def ask(engine: Engine, prompt: list[int]) -> Answer:
    """Run one request alone."""
    params = SamplingParams(temperature=0.0, seed=0, ignore_eos=True, max_tokens=OUTPUT)
    started = time.perf_counter()
    engine.add(AddRequest("request", prompt, params, [], time.monotonic()))
    answer = Answer(0.0, [], 0)
    while engine.has_work:
        for output in engine.step().outputs:
            if not answer.tokens:
                answer.ttft, answer.num_cached = time.perf_counter() - started, output.num_cached_tokens
            answer.tokens += output.token_ids
    return answer


def run(prompts: list[list[int]], *, restart: bool, **flags: Any) -> list[Answer]:
    """Both rounds; the answers of the second."""
    length = len(prompts[0]) + OUTPUT
    config = EngineConfig(num_gpu_blocks_override=2 * blocks_for(length), max_model_len=length, **flags)
    engine = build_engine(config)
    for prompt in prompts:
        ask(engine, prompt)
    if restart:
        engine.close()
        engine = build_engine(config)
    answers = [ask(engine, [*prompt[:-1], 1]) for prompt in prompts]
    engine.close()
    return answers


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="", help="default: the demo model")
    parser.add_argument("--prompts", type=int, default=6)
    parser.add_argument("--length", type=int, default=2000)
    arguments = parser.parse_args()
    draw = random.Random(0)
    vocabulary = range(read_spec(resolve_model(arguments.model)).vocab_size)
    prompts = [draw.choices(vocabulary, k=arguments.length) for _ in range(arguments.prompts)]
    print(*this_machine().lines(), sep="\n")
    with tempfile.TemporaryDirectory() as folder:
        runs = {
            "computed again": run(prompts, restart=False, model=arguments.model),
            "from host memory": run(prompts, restart=False, model=arguments.model, kv_offload_gb=1.0),
            "from disk, after a restart": run(
                prompts, restart=True, model=arguments.model, kv_offload_dir=folder
            ),
        }
    base = runs["computed again"]
    for name, answers in runs.items():
        ttft = statistics.median(each.ttft for each in answers)
        ratio = ttft / statistics.median(each.ttft for each in base)
        cached = sum(each.num_cached for each in answers)
        same = [each.tokens for each in answers] == [each.tokens for each in base]
        print(
            f"{name:27} TTFT p50 {1e3 * ttft:8.1f} ms, x {ratio:.3f}; {cached:,} prompt tokens not computed; "
            f"{'the same tokens' if same else 'DIFFERENT TOKENS'}"
        )


if __name__ == "__main__":
    main()
