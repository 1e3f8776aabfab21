"""What planning steps ahead is worth: the time between two starts of the model, with and without it.

    python benchmarks/step_ahead.py [--model MODEL.gguf] [--threads N] [--batch 1 8 32] [--rounds 20]

Runs the engine process's loop in this process, with its socket, on one kernel thread less than there are
CPUs: sequences decode together, some steps in the one way and some in the other, in turns. What is neither
the model nor the sampling kernels between two starts is what Python costs a stream.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from itertools import pairwise
from typing import Any

from step_overhead import REQUESTS, Messages, add_requests

from octavo.config import EngineConfig
from octavo.engine.build import build_engine
from octavo.model.load import read_spec, resolve_model

STEPS = 20
"""Of a turn; the first two, which change over, do not count."""


class Clock:
    """When the model started, each time, and how long it and then the sampling kernels took."""

    def __init__(self, executable: Any) -> None:
        self.starts: list[float] = []
        self.kernels: list[float] = []
        self._run, self._sample = executable._native.run, executable.sampler._native.sample
        self._executable = executable
        executable._native, executable.sampler._native = self, self

    def __getattr__(self, name: str) -> Any:
        return getattr(self._run.__self__, name)

    def run(self, *arguments: Any) -> Any:
        """The model."""
        self.starts.append(time.perf_counter())
        result = self._run(*arguments)
        self.kernels.append(time.perf_counter() - self.starts[-1])
        return result

    def sample(self, *arguments: Any) -> Any:
        """The sampling kernels."""
        started = time.perf_counter()
        result = self._sample(*arguments)
        self.kernels[-1] += time.perf_counter() - started
        return result


def main() -> None:
    """Print a table."""
    cpus = len(os.sched_getaffinity(0))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", default="", help="a GGUF file or a directory; default: the demo model")
    parser.add_argument("--threads", type=int, default=max(1, cpus - 1))
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--rounds", type=int, default=20, help=f"turns of {STEPS} steps, of each kind")
    parser.add_argument("--prompt-tokens", type=int, default=200)
    arguments = parser.parse_args()

    vocab_size = read_spec(resolve_model(arguments.model)).vocab_size
    config = EngineConfig(model=arguments.model, threads=arguments.threads, async_scheduling=True)
    engine: Any = build_engine(config)
    clock, ahead = Clock(engine._executable), engine._ahead
    may_plan = ahead.next_is_known
    print(f"{arguments.threads} kernel threads of {cpus} CPUs; us between two starts, and in Python of it")
    print(f"{'':12}{'in order':>26}{'ahead':>26}{'ratio':>10}")
    with tempfile.TemporaryDirectory() as folder:
        messages = Messages(folder)
        for batch in arguments.batch:
            ids = add_requests(engine, batch, arguments.prompt_tokens, vocab_size, REQUESTS["greedy"])
            waiting = set(ids)
            while waiting:
                waiting -= {output.request_id for output in engine.step().outputs}
            spans: dict[bool, list[float]] = {False: [], True: []}
            others: dict[bool, list[float]] = {False: [], True: []}
            for turn in range(2 * arguments.rounds):
                is_ahead = turn % 4 in (1, 2)  # Contexts grow: each kind goes first as often.
                ahead.next_is_known = may_plan if is_ahead else lambda built: False
                first = len(clock.starts)
                for _ in range(STEPS):
                    messages.send(engine.step())
                    messages.drain()
                starts, kernels = clock.starts[first + 2 : first + STEPS], clock.kernels[first + 2 :]
                span = [end - start for start, end in pairwise(starts)]
                other = [each - inside for each, inside in zip(span, kernels, strict=False)]
                spans[is_ahead].append(statistics.median(span))
                others[is_ahead].append(statistics.median(other))
            engine.abort(ids)
            engine.step()
            cells = []
            for kind in (False, True):
                span_us, other_us = (statistics.median(each[kind]) * 1e6 for each in (spans, others))
                cells.append(f"{span_us:10.0f} {other_us:5.0f} {other_us / span_us:6.1%}")
            ratio = statistics.median(x / y for x, y in zip(spans[False], spans[True], strict=True))
            print(f"batch {batch:<6}{cells[0]:>26}{cells[1]:>26}{ratio:>9.3f}x")


if __name__ == "__main__":
    main()
