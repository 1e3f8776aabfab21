"""Where the time of a decode step goes: the model's C++, sampling's C++, and the Python around them.

    python benchmarks/step_overhead.py [--model MODEL.gguf] [--batch 32] [--steps 100]

Runs the engine process's loop in this process, with its socket, without planning ahead (step_ahead.py has
what that is worth): sequences of random prompts decode together, greedily and then with temperature 0.8 and
top_p 0.95. Every stage is timed in the same run; the aim is that what is neither the model nor the sampling
kernels takes under 5% of a step.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

import msgspec
import zmq

from octavo.config import EngineConfig
from octavo.engine.build import build_engine
from octavo.engine.engine import Engine
from octavo.engine.messages import AddRequest
from octavo.model.load import read_spec, resolve_model
from octavo.sampling_params import SamplingParams

REQUESTS: dict[str, dict[str, float]] = {
    "greedy": {"temperature": 0.0},
    "temperature 0.8, top_p 0.95": {"temperature": 0.8, "top_p": 0.95},
}
KERNELS = ("the model", "sampling kernels")
AIM = 0.05


class Stopwatch:
    """Times calls by stage; a stage's time leaves out the stages inside it."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._inner = [0.0]

    def timed(self, stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function`, timed as `stage`."""

        def call(*arguments: Any) -> Any:
            self._inner.append(0.0)
            started = time.perf_counter()
            try:
                return function(*arguments)
            finally:
                elapsed = time.perf_counter() - started
                self.seconds[stage] = self.seconds.get(stage, 0.0) + elapsed - self._inner.pop()
                self._inner[-1] += elapsed

        return call


class Timed:
    """Another object, some of whose methods are timed."""

    def __init__(self, inner: Any, watch: Stopwatch, stages: dict[str, str]) -> None:
        self._inner = inner
        for method, stage in stages.items():
            setattr(self, method, watch.timed(stage, getattr(inner, method)))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class Messages:
    """The socket's two ends: each step's outputs are encoded and sent as the engine process does it."""

    def __init__(self, folder: str) -> None:
        self._context = zmq.Context()
        self._engine, self._parent = self._context.socket(zmq.PAIR), self._context.socket(zmq.PAIR)
        self._parent.bind(f"ipc://{folder}/s")
        self._engine.connect(f"ipc://{folder}/s")
        self._encoder = msgspec.msgpack.Encoder()

    def send(self, outputs: msgspec.Struct) -> None:
        """Send, after looking whether something came."""
        self._engine.getsockopt(zmq.EVENTS)
        self._engine.send(self._encoder.encode(outputs))

    def drain(self) -> None:
        """Throw away what was sent."""
        while self._parent.poll(0):
            self._parent.recv()


def instrument(engine: Any, watch: Stopwatch) -> None:
    """Time the stages of `engine.step`."""
    executable, runner = engine._executable, engine._runner
    executable.run = watch.timed(KERNELS[0], executable.run)
    executable.sampler._native = Timed(executable.sampler._native, watch, {"sample": KERNELS[1]})
    runner.run = watch.timed("sampling, around the kernels", runner.run)
    engine._scheduler = Timed(
        engine._scheduler, watch, dict.fromkeys(("schedule", "update", "observe"), "scheduling")
    )
    engine._batches = Timed(engine._batches, watch, {"build": "batch building"})
    engine._append = watch.timed("outputs", engine._append)


def add_requests(engine: Engine, batch: int, prompt_tokens: int, vocab_size: int, fields: Any) -> list[str]:
    """Sequences that never end by themselves; returns their ids."""
    ids = []
    for number in range(batch):
        prompt = random.choices(range(vocab_size), k=prompt_tokens)
        params = SamplingParams(seed=number, ignore_eos=True, max_tokens=None, **fields)
        ids.append(f"cmpl-{random.getrandbits(128):032x}-{number}#{number}")
        engine.add(AddRequest(ids[-1], prompt, params, [2], time.monotonic()))
    return ids


def main() -> None:
    """Print a table for each kind of request."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", default="", help="a GGUF file or a directory; default: the demo model")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--prompt-tokens", type=int, default=200)
    parser.add_argument("--threads", type=int, default=None)
    arguments = parser.parse_args()

    vocab_size = read_spec(resolve_model(arguments.model)).vocab_size
    config = EngineConfig(model=arguments.model, threads=arguments.threads, async_scheduling=False)
    engine = build_engine(config)
    watch = Stopwatch()
    instrument(engine, watch)
    step = watch.timed("the rest of the step", engine.step)
    with tempfile.TemporaryDirectory() as folder:
        messages = Messages(folder)
        send = watch.timed("messages", messages.send)
        for name, fields in REQUESTS.items():
            ids = add_requests(engine, arguments.batch, arguments.prompt_tokens, vocab_size, fields)
            waiting = set(ids)
            while waiting:
                waiting -= {output.request_id for output in engine.step().outputs}
            watch.seconds.clear()
            times = []
            for _ in range(arguments.steps):
                started = time.perf_counter()
                send(step())
                times.append(time.perf_counter() - started)
                messages.drain()
            report(name, arguments.batch, watch.seconds, times)
            engine.abort(ids)


def report(name: str, batch: int, seconds: dict[str, float], times: list[float]) -> None:
    """The table of one kind of request."""
    steps, total = len(times), sum(times)
    print(
        f"\nbatch {batch}, {name}: {total / steps * 1e3:.2f} ms a step, {batch * steps / total:.0f} tokens/s"
    )
    for stage, spent in sorted(seconds.items(), key=lambda item: -item[1]):
        print(f"  {stage:32}{spent / steps * 1e6:10.0f} us{spent / total:8.1%}")
    outside = total - sum(seconds.get(stage, 0.0) for stage in KERNELS)
    verdict = "under" if outside / total < AIM else "OVER"
    print(f"  outside the kernels: {outside / total:.2%}, {verdict} {AIM:.0%}; ", end="")
    print(f"median step {statistics.median(times) * 1e3:.2f} ms")


if __name__ == "__main__":
    main()
