"""How fast the engine itself is: scheduling, the model, sampling and outputs, without HTTP or text."""

from __future__ import annotations

import random
import time

from octavo.bench.workload import Workload
from octavo.config import EngineConfig
from octavo.engine.build import build_engine
from octavo.engine.messages import AddRequest
from octavo.model.load import read_spec, resolve_model
from octavo.sampling_params import SamplingParams

SECONDS = 1.0
"""How long a workload is timed at least."""


class EngineRate:
    """An engine that is timed step by step. Every prompt is new, so that the prefix cache gives nothing."""

    name = "octavo"

    def __init__(self, config: EngineConfig) -> None:
        """Raises ValueError as `build_engine` does."""
        self._vocab_size = read_spec(resolve_model(config.model)).vocab_size
        self._engine = build_engine(config)
        self._random = random.Random(0)
        self._count = 0
        self.ready = self._engine.ready()

    def tokens_per_second(self, workload: Workload) -> float:
        """Time the workload again and again for at least a second, after one untimed run.

        Raises ValueError when it is too long for the model or too large for the KV cache.
        """
        longest, most = workload.longest, self.ready.max_model_len
        if longest > most:
            raise ValueError(f"{workload.name} takes {longest} positions, over {most}")
        once = self._prefill if workload.kind == "prefill" else self._decode
        once(workload)
        num_tokens, seconds = 0, 0.0
        while seconds < SECONDS:
            more, elapsed = once(workload)
            num_tokens += more
            seconds += elapsed
        return num_tokens / seconds

    def _prefill(self, workload: Workload) -> tuple[int, float]:
        """Tokens, and the seconds that they took."""
        self._add(workload)
        started = time.perf_counter()
        while self._engine.has_work:
            self._engine.step()
        return workload.prompt_tokens * workload.batch, time.perf_counter() - started

    def _decode(self, workload: Workload) -> tuple[int, float]:
        """Timed from when every sequence has its first token; those that were first are a little longer."""
        request_ids = self._add(workload)
        waiting = set(request_ids)
        while waiting:
            waiting -= {output.request_id for output in self._engine.step().outputs}
        num_tokens = 0
        started = time.perf_counter()
        for _ in range(workload.output_tokens):
            num_tokens += sum(len(output.token_ids) for output in self._engine.step().outputs)
        elapsed = time.perf_counter() - started
        self._engine.abort(request_ids)
        if num_tokens != workload.batch * workload.output_tokens:
            raise ValueError(f"{workload.name} does not fit the KV cache: sequences had to wait")
        return num_tokens, elapsed

    def _add(self, workload: Workload) -> list[str]:
        params = SamplingParams(
            temperature=0.0,
            seed=0,
            ignore_eos=True,
            max_tokens=1 if workload.kind == "prefill" else None,
        )
        added = []
        for _ in range(workload.batch):
            self._count += 1
            prompt = self._random.choices(range(self._vocab_size), k=workload.prompt_tokens)
            self._engine.add(AddRequest(str(self._count), prompt, params, [], float(self._count)))
            added.append(str(self._count))
        return added
