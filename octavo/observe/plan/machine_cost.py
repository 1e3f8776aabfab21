"""How long steps take on this machine: a few are run and measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from octavo.config import EngineConfig
from octavo.engine.build import build_engine
from octavo.engine.engine import Engine
from octavo.engine.messages import AddRequest, EngineReady
from octavo.engine.step_time import StepTime, prompt_pairs
from octavo.observe.plan.step_cost import StepWork
from octavo.sampling_params import SamplingParams

_PROMPTS = (64, 256, 512)
_BATCHES = (1, 4, 16)
_CONTEXT = 32
_STEPS = 6
_ROUNDS = 2


@dataclass(frozen=True, slots=True)
class MeasuredCost:
    """The fit that the scheduler makes as well, to steps that were run for the purpose."""

    step_time: StepTime
    ready: EngineReady

    def seconds(self, work: StepWork) -> float:
        """The fit's value."""
        return self.step_time.seconds(work.num_tokens, work.num_pairs)


def measure(config: EngineConfig, progress: Callable[[str], object]) -> MeasuredCost:
    """Load the model and time prompts of some lengths and batches of some sizes; seconds for a small model.

    Raises ValueError as `build_engine` does.
    """
    progress("loading the model")
    engine = build_engine(config)
    return _Measurement(engine, config.max_num_batched_tokens).run(progress)


class _Measurement:
    def __init__(self, engine: Engine, most_tokens: int) -> None:
        self._engine = engine
        self._ready = engine.ready()
        self._most_tokens = most_tokens
        self._fit = StepTime()
        self._count = 0

    def run(self, progress: Callable[[str], object]) -> MeasuredCost:
        for number in range(_ROUNDS + 1):
            fit = self._fit if number else StepTime()  # The first round only warms up.
            for length in _PROMPTS:
                if length <= min(self._most_tokens, self._ready.max_model_len - 1):
                    progress(f"timing a prompt of {length} tokens")
                    self._time_prompt(length, fit)
            for batch in _BATCHES:
                progress(f"timing a batch of {batch}")
                self._time_decode(batch, fit)
        return MeasuredCost(self._fit, self._ready)

    def _time_prompt(self, length: int, fit: StepTime) -> None:
        request_id = self._add(length, None)
        stats = self._engine.step().stats
        num_tokens = stats.num_scheduled_tokens
        fit.observe(num_tokens, prompt_pairs(num_tokens, 0), stats.step_seconds, with_prompt=True)
        self._engine.abort([request_id])

    def _time_decode(self, batch: int, fit: StepTime) -> None:
        added = [self._add(_CONTEXT, None) for _ in range(batch)]
        waiting = set(added)
        while waiting:
            waiting -= {output.request_id for output in self._engine.step().outputs}
        for number in range(_STEPS):
            stats = self._engine.step().stats
            pairs = batch * (_CONTEXT + 2 + number)
            fit.observe(stats.num_scheduled_tokens, pairs, stats.step_seconds, with_prompt=False)
        self._engine.abort(added)

    def _add(self, length: int, max_tokens: int | None) -> str:
        self._count += 1
        params = SamplingParams(temperature=0.0, seed=0, max_tokens=max_tokens, ignore_eos=True)
        prompt = [(self._count + position) % 50 for position in range(length)]
        prompt[0] = self._count % 50
        request = AddRequest(str(self._count), prompt, params, [], 0.0, cache_salt=str(self._count))
        self._engine.add(request)
        return request.request_id
