"""The scheduler's memory over a million requests, of all policies' kinds, with no model.

Run from the repository: `python benchmarks/scheduler_memory.py [--requests 1000000] [--policy fair]`. Every
request has a prompt and a user of its own, so that what is kept per prompt (the prefix cache) or per user
(fair share) would show; some are preempted, some aborted. Prints resident memory as it goes, and exits with 1
if the last nine tenths of the requests added over a mebibyte.
"""

from __future__ import annotations

import argparse
import gc
import os
import random
import sys
import time
from pathlib import Path

from octavo.engine.kv.block_hash import BlockHasher
from octavo.engine.kv.block_pool import BlockPool
from octavo.engine.kv.prefix_cache import PrefixCache
from octavo.engine.messages import AddRequest
from octavo.engine.scheduling.scheduler import Scheduler, SchedulerSettings
from octavo.engine.sequence import Sequence
from octavo.sampling.state import SamplingState
from octavo.sampling_params import SamplingParams

VOCAB = 1000
MAX_MODEL_LEN = 64
NUM_SEQS = 64
MOST_GROWTH = 1 << 20


class Churn:
    """Keeps a scheduler's queue filled with new requests, and does what the engine does after a step."""

    def __init__(self, policy: str) -> None:
        pool = BlockPool(NUM_SEQS * 2)  # Less than all need at full length: some are preempted.
        settings = SchedulerSettings(NUM_SEQS, 512, NUM_SEQS, policy=policy, priority_aging=1.0)
        self.scheduler = Scheduler(settings, pool, PrefixCache(pool))
        self.num_finished = 0
        self._random = random.Random(0)
        self._hasher = BlockHasher()
        self._number = 0

    def step(self) -> None:
        """Fill the queue up to 16, run a step; now and then abort one."""
        scheduler = self.scheduler
        while scheduler.num_waiting < 16:
            self._add()
        step = scheduler.schedule(float(self._number))
        scheduler.update(step)
        for sequence in step.sequences:
            if sequence.num_computed_tokens == len(sequence):
                sequence.token_ids.append(self._random.randrange(VOCAB))
                if sequence.finish_reason():
                    scheduler.remove(sequence)
                    self.num_finished += 1
        scheduler.observe(step, 0.001 + 1e-5 * step.num_tokens)
        if self._random.random() < 0.1 and scheduler.running:
            scheduler.remove(self._random.choice(scheduler.running))
            self.num_finished += 1

    def _add(self) -> None:
        self._number += 1
        prompt = self._random.choices(range(VOCAB), k=self._random.randint(1, 48))
        params = SamplingParams(temperature=0.0, max_tokens=self._random.randint(1, 16), ignore_eos=True)
        request = AddRequest(
            str(self._number), prompt, params, [], float(self._number), user=f"user {self._number}"
        )
        sampling = SamplingState(params, prompt, [], [], VOCAB)
        self.scheduler.add(Sequence(request, self._number, MAX_MODEL_LEN, sampling, self._hasher))


def resident_bytes() -> int:
    """Memory of this process that is in RAM."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def main() -> int:
    """Print a line for each tenth of the requests; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--requests", type=int, default=1_000_000)
    parser.add_argument("--policy", default="fair", choices=("fcfs", "priority", "fair"))
    args = parser.parse_args()
    churn = Churn(args.policy)
    started = time.monotonic()
    resident = []
    for tenth in range(1, 11):
        while churn.num_finished < args.requests * tenth // 10:
            churn.step()
        resident.append(resident_bytes())
        print(
            f"{churn.num_finished:>10,} requests  {resident[-1] / (1 << 20):8.2f} MiB"
            f"  {churn.scheduler.num_preemptions:>9,} preemptions  {time.monotonic() - started:6.1f} s"
        )
    return int(resident[-1] - resident[0] > MOST_GROWTH)


if __name__ == "__main__":
    sys.exit(main())
