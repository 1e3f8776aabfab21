"""KV memory that is held but not filled, by the real scheduler and block pool without a model.

Run from the repository: `python benchmarks/kv_waste.py [--requests 2000] [--memory-tokens 15700]`. Requests
are like those of ShareGPT: lengths are lognormal with the means that the PagedAttention paper gives for it
(prompts of 161.31 tokens, outputs of 337.99; Kwon et al., 2023, figure 11), at most 2,048 tokens together.
All are there from the start, so that memory is what limits the batch; the default memory is what the paper's
OPT-13B leaves on an A100 of 40 GB.

Beside the engine's blocks, the same requests in the same order with memory that is contiguous for each
request: reserved for the longest possible (`max_model_len`, what engines before vLLM did), for the length
rounded up to a power of two, and for exactly the length that it will have, which nobody can know. A step is
taken to last the same whatever the batch, as it about does where decoding is bound by reading the weights:
then throughput follows from the size of the batch. Exits with 1 if the waste is 4% or more.
"""

from __future__ import annotations

import argparse
import sys
from collections import deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from octavo.engine.kv.block_pool import BlockPool
from octavo.engine.messages import AddRequest
from octavo.engine.scheduling.scheduler import Scheduler, SchedulerSettings
from octavo.engine.sequence import Sequence
from octavo.runtime.kv_cache import BLOCK_SIZE
from octavo.sampling.state import SamplingState
from octavo.sampling_params import SamplingParams

MAX_MODEL_LEN = 2048
PROMPT_MEAN, OUTPUT_MEAN = 161.31, 337.99
SPREAD = 1.0
"""Standard deviation of the logarithms."""
STEP_TOKENS = 2048
VOCAB = 1000
MOST_WASTE = 0.04


@dataclass
class Usage:
    """Sums over steps."""

    steps: int = 0
    sequences: int = 0
    tokens: int = 0
    held: int = 0
    filled: int = 0

    def add(self, sequences: int, held: int, filled: int, tokens: int) -> None:
        """Count a step: slots held and filled after it, and the output tokens that it gave."""
        self.steps += 1
        self.sequences += sequences
        self.held += held
        self.filled += filled
        self.tokens += tokens

    @property
    def waste(self) -> float:
        """Share of what is held that is not filled."""
        return 1 - self.filled / self.held

    def line(self, name: str, baseline: Usage) -> str:
        """A row of the table; throughput is in units of `baseline`'s."""
        ratio = (self.tokens / self.steps) / (baseline.tokens / baseline.steps)
        return f"{name:28} {self.waste:8.2%} {self.sequences / self.steps:12.1f} {ratio:12.2f}x"


def sharegpt_like(count: int, seed: int) -> NDArray[np.int64]:
    """`[count, 2]` prompt and output lengths with ShareGPT's means after clipping to the model's length."""
    random = np.random.default_rng(seed)
    prompts = _lognormal(random, count, PROMPT_MEAN, MAX_MODEL_LEN // 2)
    outputs = _lognormal(random, count, OUTPUT_MEAN, MAX_MODEL_LEN // 2)
    return np.stack([prompts, outputs], axis=1)


def _lognormal(random: np.random.Generator, count: int, mean: float, most: int) -> NDArray[np.int64]:
    """Lengths of that mean, at least 1 and at most `most`."""
    normal = random.standard_normal(count)
    low, high = 0.0, 20.0
    for _ in range(60):
        middle = (low + high) / 2
        lengths = np.clip(np.exp(middle + SPREAD * normal), 1, most)
        low, high = (middle, high) if lengths.mean() < mean else (low, middle)
    return np.maximum(1, np.round(lengths)).astype(np.int64)


def paged(lengths: NDArray[np.int64], memory_tokens: int) -> Usage:
    """The scheduler over a pool of blocks, prefix cache off: every block is a sequence's own."""
    pool = BlockPool(memory_tokens // BLOCK_SIZE)
    settings = SchedulerSettings(max_num_seqs=512, max_num_batched_tokens=STEP_TOKENS, max_outputs=512)
    scheduler = Scheduler(settings, pool, None)
    for number, (prompt, output) in enumerate(lengths.tolist()):
        params = SamplingParams(temperature=0.0, max_tokens=output, ignore_eos=True)
        request = AddRequest(str(number), [1] * prompt, params, [], 0.0)
        sampling = SamplingState(params, request.prompt_token_ids, [], [], VOCAB)
        scheduler.add(Sequence(request, number, MAX_MODEL_LEN, sampling))

    usage = Usage()
    while scheduler.running or scheduler.num_waiting:
        step = scheduler.schedule()
        scheduler.update(step)
        running = scheduler.running
        sampled = [each for each in step.sequences if each.num_computed_tokens == len(each)]
        usage.add(
            len(running),
            (pool.num_blocks - pool.num_free) * BLOCK_SIZE,
            sum(each.num_computed_tokens for each in running),
            len(sampled),
        )
        for sequence in sampled:
            sequence.token_ids.append(1)
            if sequence.finish_reason():
                scheduler.remove(sequence)
    return usage


def contiguous(lengths: NDArray[np.int64], memory_tokens: int, reserve: NDArray[np.int64]) -> Usage:
    """The same budget of tokens a step, first come first served, `reserve` slots for each request."""
    waiting = deque(range(len(lengths)))
    prompts, outputs = lengths[:, 0].tolist(), lengths[:, 1].tolist()
    slots = reserve.tolist()
    computed: dict[int, int] = {}
    free = memory_tokens
    usage = Usage()
    while waiting or computed:
        budget = STEP_TOKENS
        for number, done in computed.items():
            count = min(1 if done >= prompts[number] else prompts[number] - done, budget)
            computed[number] += count
            budget -= count
        while waiting and budget and slots[waiting[0]] <= free:
            number = waiting.popleft()
            computed[number] = min(prompts[number], budget)
            budget -= computed[number]
            free -= slots[number]
        sampled = [number for number, done in computed.items() if done >= prompts[number]]
        held = sum(slots[number] for number in computed)
        usage.add(len(computed), held, sum(computed.values()), len(sampled))
        for number in sampled:
            if computed[number] - prompts[number] + 1 == outputs[number]:
                free += slots[number]
                del computed[number]
    return usage


def main() -> int:
    """Print the table; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--memory-tokens", type=int, default=15_700)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    lengths = sharegpt_like(args.requests, args.seed)
    total = lengths.sum(axis=1)
    print(
        f"{args.requests} requests, {lengths[:, 0].mean():.1f} prompt and {lengths[:, 1].mean():.1f} output "
        f"tokens on average, longest {total.max()}; memory for {args.memory_tokens} tokens"
    )
    blocks = paged(lengths, args.memory_tokens)
    powers = 2 ** np.ceil(np.log2(total)).astype(np.int64)
    baseline = contiguous(lengths, args.memory_tokens, np.full(len(total), MAX_MODEL_LEN))
    print(f"{'':28} {'waste':>8} {'mean batch':>12} {'throughput':>13}")
    for name, usage in [
        (f"contiguous, {MAX_MODEL_LEN} tokens", baseline),
        ("contiguous, power of two", contiguous(lengths, args.memory_tokens, powers)),
        ("contiguous, length foreseen", contiguous(lengths, args.memory_tokens, total)),
        (f"blocks of {BLOCK_SIZE} tokens", blocks),
    ]:
        print(usage.line(name, baseline))
    return int(blocks.waste >= MOST_WASTE)


if __name__ == "__main__":
    sys.exit(main())
