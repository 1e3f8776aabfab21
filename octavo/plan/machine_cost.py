"""How long steps take on this machine: a few are run and measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from octavo.config import EngineConfig
from octavo.engine.build import build_engine
from octavo.engine.engine import Engine
from octavo.engine.messages import AddRequest, EngineReady
from octavo.engine.step_time import StepTime, prompt_pairs
from octavo.plan.step_work import StepWork
from octavo.request_options import RequestOptions
from octavo.sampling_params import SamplingParams

_PROMPTS = (64, 256, 512)
_BATCHES = (1, 4, 16)
_CONTEXTS = (32, 256)
_STEPS = 6
_ROUNDS = 4
"""Some seconds in all: virtual machines have faster and slower ones."""


@dataclass(frozen=True, slots=True)
class MeasuredCost:
    """The fit that the scheduler makes as well, to steps that were run for the purpose.

    One for sequences that decode and one for prompts, since a pair of a prompt's attention costs less: its
    keys are read for many queries.
    """

    decodes: StepTime
    prompts: StepTime
    ready: EngineReady

    def seconds(self, work: StepWork) -> float:
        """A step of prompts or of decodes by its own fit; prompts beside decodes add what they take more."""
        prompt_tokens, prompt_pairs = work.num_tokens - work.num_decodes, work.num_pairs - work.decode_pairs
        if not work.num_decodes:
            return self.prompts.seconds(prompt_tokens, prompt_pairs)
        seconds = self.decodes.seconds(work.num_decodes, work.decode_pairs)
        if prompt_tokens:
            seconds += self.prompts.seconds(prompt_tokens, prompt_pairs) - self.prompts.seconds(0, 0)
        return seconds

    def delays(self, num_decodes: int) -> Sequence[float]:
        """None: an engine has no clients."""
        return ()


def measure(config: EngineConfig, progress: Callable[[str], object]) -> MeasuredCost:
    """Load the model and time prompts of some lengths and batches of some sizes; seconds for a small model.

    Raises ValueError as `build_engine` does.
    """
    progress("loading the model")
    engine = build_engine(config)
    most_sequences = min(config.max_num_seqs, config.max_num_batched_tokens)
    return _Measurement(engine, config.max_num_batched_tokens, most_sequences).run(progress)


class _Measurement:
    def __init__(self, engine: Engine, most_tokens: int, most_sequences: int) -> None:
        self._engine = engine
        self._ready = engine.ready()
        self._most_tokens = most_tokens
        self._batches = sorted({min(batch, most_sequences) for batch in _BATCHES})
        self._count = 0

    def run(self, progress: Callable[[str], object]) -> MeasuredCost:
        decodes, prompts = StepTime(), StepTime()
        for number in range(_ROUNDS + 1):
            if number == 1:  # The first round only warmed up.
                decodes, prompts = StepTime(), StepTime()
            for length in _PROMPTS:
                if length <= min(self._most_tokens, self._ready.max_model_len - 1):
                    progress(f"timing a prompt of {length} tokens")
                    self._time_prompt(length, prompts)
            for batch in self._batches:
                progress(f"timing a batch of {batch}")
                for context in _CONTEXTS:
                    self._time_decode(batch, min(context, self._ready.max_model_len // 2), decodes)
        return MeasuredCost(decodes, prompts, self._ready)

    def _time_prompt(self, length: int, fit: StepTime) -> None:
        request_id = self._add(length, None)
        stats = self._engine.step().stats
        num_tokens = stats.num_scheduled_tokens
        fit.observe(num_tokens, prompt_pairs(num_tokens, 0), stats.step_seconds, with_prompt=True)
        self._engine.abort([request_id])

    def _time_decode(self, batch: int, context: int, fit: StepTime) -> None:
        added = [self._add(context, None) for _ in range(batch)]
        waiting = set(added)
        num_outputs = 0
        while waiting:
            outputs = self._engine.step().outputs
            num_outputs += len(outputs)
            waiting -= {output.request_id for output in outputs}
        for _ in range(_STEPS):
            stats = self._engine.step().stats
            # Each output so far has made its sequence one longer, and the step's token sees itself.
            fit.observe(batch, batch * context + num_outputs, stats.step_seconds, with_prompt=False)
            num_outputs += batch
        self._engine.abort(added)

    def _add(self, length: int, max_tokens: int | None) -> str:
        self._count += 1
        params = SamplingParams(temperature=0.0, seed=0, max_tokens=max_tokens, ignore_eos=True)
        prompt = [(self._count + position) % 50 for position in range(length)]
        prompt[0] = self._count % 50
        request = AddRequest(
            str(self._count), prompt, params, [], 0.0, options=RequestOptions(cache_salt=str(self._count))
        )
        self._engine.add(request)
        return request.request_id
