"""The engine: requests in, tokens out, one step at a time."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass

from octavo.engine.batch_builder import BatchBuilder, BuiltBatch
from octavo.engine.describe import describe
from octavo.engine.grammar_queue import GrammarQueue
from octavo.engine.kv.block_hash import BlockHasher
from octavo.engine.kv.block_pool import BlockPool, blocks_for
from octavo.engine.kv.block_residency import BlockResidency
from octavo.engine.kv.integrity import BlockIntegrityError, report_file
from octavo.engine.kv.kv_groups import room_in_tokens
from octavo.engine.kv.offload.kv_offload import KVOffload
from octavo.engine.kv.prefix_cache import PrefixCache
from octavo.engine.messages import (
    AddRequest,
    DescribeState,
    EngineReady,
    EngineState,
    SchedulerStats,
    SequenceOutput,
    StepOutputs,
)
from octavo.engine.outputs import append
from octavo.engine.scheduling.scheduler import Scheduler, SchedulerSettings, Step
from octavo.engine.sequence import Sequence, Status
from octavo.engine.step_ahead import StepAhead
from octavo.engine.step_runner import StepRunner
from octavo.runtime.backend import Executable
from octavo.sampling.output_rows import StepTokens
from octavo.sampling.state import SamplingState
from octavo.structured.compiler import GrammarCompiler
from octavo.structured.vocabulary import Vocabulary

_log = logging.getLogger(__name__)

_WAIT_SECONDS = 0.01
"""How long a step with nothing to run waits for what is being read from disk or compiled, at most."""


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """What an engine is told of its model, its memory and its steps."""

    scheduler: SchedulerSettings
    max_model_len: int
    vocab_size: int
    num_blocks: int
    prefix_caching: bool = True
    hash_algorithm: str = "sha256"
    block_bytes: int = 0
    isa: str = ""
    followed_blocks: float = 0.0
    """Share of the KV blocks whose residency is measured."""
    async_scheduling: bool = False
    """Whether the next step is planned while one runs, where it can be; not beside a KV offload."""

    def __post_init__(self) -> None:
        if not self.scheduler.chunked_prefill and self.scheduler.max_num_batched_tokens < self.max_model_len:
            raise ValueError(
                f"max_num_batched_tokens must be at least max_model_len={self.max_model_len} without "
                f"chunked prefill, got {self.scheduler.max_num_batched_tokens}"
            )


class Engine:
    """Runs sequences on an Executable; the same request always gives the same tokens.

    Not thread-safe: one thread calls `add`, `abort` and `step`. A request that can not run ends with an
    output that says so and disturbs no other; what `Executable.step` raises ends the engine.
    """

    def __init__(
        self,
        executable: Executable,
        settings: EngineSettings,
        offload: KVOffload | None = None,
        grammars: GrammarCompiler | None = None,
    ) -> None:
        """Allocates the KV cache of `executable`, which must be able to run steps of these settings.

        `offload` has the tiers for blocks that the cache has no room for. Without `grammars` no request for
        a structured output can run.
        """
        executable.allocate_kv_cache(settings.num_blocks)
        self._executable = executable
        self._settings = settings
        self._residency = BlockResidency(settings.followed_blocks) if settings.followed_blocks else None
        self._pool = BlockPool(settings.num_blocks, self._residency)
        self._prefix_cache = PrefixCache(self._pool)
        self._hasher = BlockHasher(settings.hash_algorithm)
        self._scheduler = Scheduler(settings.scheduler, self._pool, self._prefix_cache, offload)
        self._offload = offload
        self._grammars = grammars
        self._grammar_queue = None if grammars is None else GrammarQueue(grammars)
        self._batches = BatchBuilder(
            settings.scheduler.max_num_seqs,
            settings.scheduler.max_num_batched_tokens,
            blocks_for(settings.max_model_len),
            len(settings.scheduler.kv_groups),
        )
        self._runner = StepRunner(executable)
        self._ahead: StepAhead | None = None
        if settings.async_scheduling and offload is None:
            num_groups = len(settings.scheduler.kv_groups)
            self._ahead = StepAhead(self._scheduler, self._pool, self._batches, self._runner, num_groups)
        self._sequences: dict[str, Sequence] = {}
        self._num_added = 0
        self._early_outputs: list[SequenceOutput] = []
        self._last_step: Step | None = None
        self._report_file = report_file()

    @property
    def has_work(self) -> bool:
        """Whether `step` has something to do."""
        return bool(self._sequences or self._early_outputs)

    def ready(self) -> EngineReady:
        """What the engine offers, for whoever waits for it."""
        settings = self._settings
        return EngineReady(
            num_blocks=settings.num_blocks,
            max_model_len=settings.max_model_len,
            weight_bytes=self._executable.weight_bytes,
            kv_cache_bytes=settings.num_blocks * settings.block_bytes,
            isa=settings.isa,
            kv_tokens=room_in_tokens(
                settings.scheduler.kv_groups,
                settings.num_blocks,
                settings.max_model_len,
                settings.scheduler.max_num_batched_tokens,
            ),
        )

    def add(self, request: AddRequest) -> None:
        """Queue a request, or go on with one that has output tokens already.

        One that needs no token (it has all that it may have) or can not run (a token id that the model
        does not have, no prompt, no seed) ends in the next step, as "length" or "stop" and as "abort". The
        id of a request that still runs is taken: the second one is dropped.
        """
        if request.request_id in self._sequences:
            _log.warning("request %s is running already; dropped the second one", request.request_id)
            return
        try:
            sequence = self._sequence(request)
        except ValueError as error:
            _log.warning("request %s can not run: %s", request.request_id, error)
            self._early_outputs.append(SequenceOutput(request.request_id, [], finish_reason="abort"))
            return
        if ended := sequence.finish_reason():
            self._early_outputs.append(SequenceOutput(request.request_id, [], *ended))
            return
        self._sequences[request.request_id] = sequence
        if request.params.structured_outputs is None:
            self._scheduler.add(sequence)
        else:
            assert self._grammar_queue is not None
            self._grammar_queue.add(sequence, request)

    def abort(self, request_ids: Iterable[str]) -> None:
        """Stop these requests and free their blocks; they give no more output. Unknown ids are ignored."""
        for request_id in request_ids:
            sequence = self._sequences.get(request_id)
            if sequence is not None:
                if self._grammar_queue is None or not self._grammar_queue.discard(sequence):
                    self._scheduler.remove(sequence)
                self._forget(sequence)
        self._check_if_idle()

    def use_vocabulary(self, vocabulary: Vocabulary) -> None:
        """Take the tokens that grammars are made of, in place of reading the tokenizer for them."""
        if self._grammars is not None:
            self._grammars.use(vocabulary)

    def reset_prefix_cache(self) -> None:
        """Forget every cached block that no sequence holds, in all tiers."""
        self._prefix_cache.reset()
        if self._offload is not None:
            self._offload.clear()

    def save_some(self) -> float | None:
        """Do some of the work that can wait until there is no other.

        Returns the seconds until there may be more, None when all is done.
        """
        return None if self._offload is None else self._offload.save_some()

    def close(self) -> None:
        """Save what is to be kept; the engine runs no more steps."""
        if self._ahead is not None:
            self._ahead.close()
        if self._offload is not None:
            self._offload.close()

    def describe(self, request: DescribeState) -> EngineState:
        """What the engine holds between two steps, in bounded size."""
        cache = self._prefix_cache if self._settings.prefix_caching else None
        return describe(request, self._pool, cache, self._scheduler, self._last_step)

    def step(self) -> StepOutputs:
        """The outputs of the next batch: a new token for running sequences, and one for each right draft.

        With `async_scheduling` the batch after it may run already when this returns.
        """
        outputs = self._step()
        self._check_if_idle()
        return outputs

    def _step(self) -> StepOutputs:
        started = time.perf_counter()
        outputs, self._early_outputs = self._early_outputs, []
        if self._offload is not None:
            self._offload.collect()
        if self._grammar_queue:
            outputs += self._take_compiled(self._grammar_queue)
        flight = None if self._ahead is None else self._ahead.take()
        if flight is not None:
            step = self._last_step = flight.step
            built = flight.built
        else:
            step = self._schedule(outputs)
            if not step.sequences:
                self._wait(outputs)
                return StepOutputs(outputs, self._stats(step, time.perf_counter() - started))
            started += self._restore(step)
            built = self._build(step)
        if self._ahead is not None and self._ahead.next_is_known(built):
            result = self._ahead.finish(flight or self._ahead.start(step, built))
        else:
            result = self._runner.run(built) if flight is None else flight.result()[0]
            self._scheduler.update(step, built.accepted(result.tokens))
        outputs += self._append(built.sampling, result.tokens)
        seconds = time.perf_counter() - started if flight is None else result.seconds
        self._scheduler.observe(step, seconds)
        return StepOutputs(outputs, self._stats(step, seconds))

    def _schedule(self, outputs: list[SequenceOutput]) -> Step:
        """The next step; what can not run any more is added to `outputs`."""
        step = self._last_step = self._scheduler.schedule(time.monotonic())
        for sequence in step.preempted:
            self._batches.release(sequence)
        for sequence in step.outgrown:
            self._forget(sequence)
            outputs.append(SequenceOutput(sequence.request_id, [], finish_reason="length"))
        now = time.monotonic()
        for sequence in step.sequences:
            if not sequence.scheduled_time:
                sequence.scheduled_time = now
        return step

    def _build(self, step: Step) -> BuiltBatch:
        if step.copies:
            self._executable.copy_blocks(*zip(*step.copies, strict=True))
        return self._batches.build(step)

    def _wait(self, outputs: list[SequenceOutput]) -> None:
        """Nothing runs: until what waits may, for a moment at most, unless there are `outputs` to send."""
        if self._offload is not None and not outputs and self._scheduler.num_waiting:
            self._offload.wait(_WAIT_SECONDS)
        elif self._grammar_queue and not outputs:
            self._grammar_queue.wait(_WAIT_SECONDS)

    def _sequence(self, request: AddRequest) -> Sequence:
        """Raises ValueError for a request that can not run."""
        vocab_size = self._settings.vocab_size
        if request.params.structured_outputs is not None and self._grammar_queue is None:
            raise ValueError("structured_outputs needs an engine that compiles grammars")
        if not request.prompt_token_ids:
            raise ValueError("prompt_token_ids must not be empty")
        for name in ("prompt_token_ids", "output_token_ids"):
            ids = getattr(request, name)
            if ids and not 0 <= min(ids) <= max(ids) < vocab_size:
                raise ValueError(f"{name} must be from 0 to {vocab_size - 1}, got {min(ids)} to {max(ids)}")
        sampling = SamplingState(
            request.params,
            request.prompt_token_ids,
            request.output_token_ids,
            request.eos_token_ids,
            vocab_size,
        )
        self._num_added += 1
        max_model_len = self._settings.max_model_len
        if self._settings.prefix_caching:
            return Sequence(request, self._num_added, max_model_len, sampling, self._hasher)
        if request.options.group:
            root = self._hasher.root(request.options.cache_salt, request.options.group)
            return Sequence(request, self._num_added, max_model_len, sampling, self._hasher, root)
        return Sequence(request, self._num_added, max_model_len, sampling)

    def _restore(self, step: Step) -> float:
        """Returns the seconds that it took, which say nothing of how long steps take."""
        if self._offload is None or not step.restores:
            return 0.0
        started = time.perf_counter()
        self._offload.restore(step.restores)
        return time.perf_counter() - started

    def _append(self, sequences: list[Sequence], tokens: StepTokens) -> list[SequenceOutput]:
        """Give each sequence its tokens; those that end leave the scheduler."""
        outputs = []
        further = tokens.after_drafts
        for index, (sequence, token) in enumerate(zip(sequences, tokens.sampled, strict=True)):
            if sequence.status is Status.FINISHED:
                continue  # Aborted while the step ran.
            output = append(sequence, token, further.get(index, ())) if further else append(sequence, token)
            if output.finish_reason:
                self._scheduler.remove(sequence)
                self._forget(sequence)
            outputs.append(output)
        return outputs

    def _take_compiled(self, queue: GrammarQueue) -> list[SequenceOutput]:
        """Queue the sequences whose grammar is ready; returns the ends of those that have none."""
        ready, failed = queue.take_ready()
        for sequence in ready:
            self._scheduler.add(sequence)
        for sequence in failed:
            self._forget(sequence)
        return [SequenceOutput(each.request_id, [], finish_reason="abort") for each in failed]

    def _check_if_idle(self) -> None:
        """Where that is asked for, raise BlockIntegrityError if a block is in use and no sequence is left."""
        if self._report_file is None or self._sequences:
            return
        try:
            self._scheduler.check_blocks()
        except BlockIntegrityError as error:
            with self._report_file.open("a") as report:
                report.write(f"{error}\n")
            raise

    def _forget(self, sequence: Sequence) -> None:
        self._batches.release(sequence)
        del self._sequences[sequence.request_id]

    def _stats(self, step: Step, seconds: float) -> SchedulerStats:
        cache = self._prefix_cache
        return SchedulerStats(
            num_running=len(self._scheduler.running),
            num_waiting=self._scheduler.num_waiting + len(self._grammar_queue or ()),
            num_blocks=self._pool.num_blocks,
            num_free_blocks=self._pool.num_free,
            num_preemptions=self._scheduler.num_preemptions,
            prefix_cache_queries=cache.queries,
            prefix_cache_hits=cache.hits,
            num_scheduled_tokens=step.num_tokens,
            step_seconds=seconds,
            num_scheduled_sequences=len(step.sequences),
            offload=None if self._offload is None else self._offload.stats(),
            evictions=[] if self._residency is None else self._residency.take(),
        )
