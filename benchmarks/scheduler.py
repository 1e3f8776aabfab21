"""How fast the scheduler is with no model: scheduled sequence-steps a second while all sequences decode.

Run from the repository: `python benchmarks/scheduler.py [--sequences 256] [--steps 1000]`. Prints the
scheduler alone (schedule and update), then with the batch built, then the engine with an executable that
costs nothing. The scheduler's aim is 200,000; at 256 sequences that is 1.3 ms a step.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np

from octavo.engine.batch_builder import BatchBuilder
from octavo.engine.engine import Engine, EngineSettings
from octavo.engine.kv.block_hash import BlockHasher
from octavo.engine.kv.block_pool import BlockPool, blocks_for
from octavo.engine.kv.prefix_cache import PrefixCache
from octavo.engine.messages import AddRequest
from octavo.engine.scheduling.scheduler import Scheduler, SchedulerSettings
from octavo.engine.sequence import Sequence
from octavo.runtime.backend import Batch
from octavo.sampling.output_rows import OutputRows, StepTokens, sample_rows
from octavo.sampling.sampler import ReferenceSampler
from octavo.sampling.state import SamplingState
from octavo.sampling_params import SamplingParams

PROMPT_TOKENS = 100
VOCAB = 128


class NoModel:
    """An Executable whose model does nothing."""

    weight_bytes = 0
    _sampler = ReferenceSampler()

    def allocate_kv_cache(self, num_blocks: int) -> None:
        """Nothing to keep."""

    def copy_blocks(self, sources: list[int], destinations: list[int]) -> None:
        """Nothing to copy."""

    def step(self, batch: Batch, rows: OutputRows) -> StepTokens:
        """Logits of zero: token 0 for everyone."""
        logits = np.zeros((len(batch.output_rows), VOCAB), dtype=np.float32)
        return sample_rows(self._sampler, logits, rows)


def make_request(number: int, max_tokens: int) -> AddRequest:
    """A greedy request that decodes to its end."""
    params = SamplingParams(temperature=0.0, max_tokens=max_tokens, ignore_eos=True)
    prompt = [number % VOCAB] + [1] * (PROMPT_TOKENS - 1)
    return AddRequest(str(number), prompt, params, [], float(number))


def time_scheduler(num_seqs: int, steps: int, build: bool) -> float:
    """Sequence-steps a second of the scheduler, with the batch if `build`."""
    max_len = PROMPT_TOKENS + steps + 2
    settings = SchedulerSettings(num_seqs, num_seqs * PROMPT_TOKENS, num_seqs)
    pool = BlockPool(num_seqs * blocks_for(max_len))
    scheduler = Scheduler(settings, pool, PrefixCache(pool))
    batches = BatchBuilder(num_seqs, settings.max_num_batched_tokens, blocks_for(max_len))
    for number in range(num_seqs):
        request = make_request(number, steps + 2)
        sampling = SamplingState(request.params, request.prompt_token_ids, [], [], VOCAB)
        scheduler.add(Sequence(request, number, max_len, sampling, BlockHasher()))

    def step() -> None:
        scheduled = scheduler.schedule()
        if build:
            batches.build(scheduled)
        scheduler.update(scheduled)
        for sequence in scheduled.sequences:
            sequence.token_ids.append(0)

    return rate(step, num_seqs, steps)


def time_engine(num_seqs: int, steps: int) -> float:
    """Sequence-steps a second of the engine: scheduling, batch, greedy sampling, outputs."""
    max_len = PROMPT_TOKENS + steps + 2
    settings = SchedulerSettings(num_seqs, num_seqs * PROMPT_TOKENS, num_seqs)
    engine = Engine(NoModel(), EngineSettings(settings, max_len, VOCAB, num_seqs * blocks_for(max_len)))
    for number in range(num_seqs):
        engine.add(make_request(number, steps + 2))
    return rate(engine.step, num_seqs, steps)


def rate(step: Callable[[], object], num_seqs: int, steps: int) -> float:
    """Sequence-steps a second of `step`, the prefill not counted."""
    step()
    started = time.perf_counter()
    for _ in range(steps):
        step()
    return num_seqs * steps / (time.perf_counter() - started)


def main() -> None:
    """Print the three rates."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sequences", type=int, default=256)
    parser.add_argument("--steps", type=int, default=1000)
    args = parser.parse_args()
    for name, figure in [
        ("scheduler", time_scheduler(args.sequences, args.steps, build=False)),
        ("scheduler and batch", time_scheduler(args.sequences, args.steps, build=True)),
        ("engine", time_engine(args.sequences, args.steps)),
    ]:
        print(f"{name:20} {figure:>12,.0f} sequence-steps/s  {args.sequences / figure * 1e3:6.2f} ms a step")


if __name__ == "__main__":
    main()
