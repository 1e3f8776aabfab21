"""The scheduler: which sequences run in the next step, with how many tokens each.

No input or output, no model, no clock. One budget of tokens a step, and no separate prefill and decode
phases (Sarathi-Serve, Agrawal et al., 2024): whoever has tokens to compute gets some.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from dataclasses import dataclass, field
from operator import attrgetter

from octavo.engine.block_pool import BlockPool
from octavo.engine.prefix_cache import PrefixCache
from octavo.engine.sequence import Sequence, Status
from octavo.engine.sequence_blocks import SequenceBlocks
from octavo.runtime.backend import BLOCK_SIZE

_order = attrgetter("order")


@dataclass(frozen=True, slots=True)
class SchedulerSettings:
    """The bounds of a step.

    `max_outputs` rows may ask for logits, at least `max_num_seqs`; those beyond are for prompt log
    probabilities. Without `chunked_prefill` a prompt is computed in one step, so `max_num_batched_tokens`
    must be at least the length of the longest sequence; only a prompt that wants log probabilities is
    still split, by output rows.
    """

    max_num_seqs: int
    max_num_batched_tokens: int
    max_outputs: int
    chunked_prefill: bool = True

    def __post_init__(self) -> None:
        if min(self.max_num_seqs, self.max_num_batched_tokens) < 1:
            raise ValueError("max_num_seqs and max_num_batched_tokens must be at least 1")
        if self.max_outputs < self.max_num_seqs:
            raise ValueError(f"max_outputs must be at least max_num_seqs, {self.max_num_seqs}")


@dataclass(slots=True)
class Step:
    """What to run: `sequences[i]` computes its next `num_new_tokens[i]` tokens, `num_tokens` in all.

    `preempted` lost their blocks and wait again. `outgrown` have become longer than the whole pool and
    were removed.
    """

    sequences: list[Sequence] = field(default_factory=list)
    num_new_tokens: list[int] = field(default_factory=list)
    num_tokens: int = 0
    preempted: list[Sequence] = field(default_factory=list)
    outgrown: list[Sequence] = field(default_factory=list)


class Scheduler:
    """Continuous batching (Orca, Yu et al., 2022) over a block pool.

    `waiting` and `running` are kept in `Sequence.order`: priority, then arrival. A step serves the running
    sequences first, in that order; when blocks run out the last of them is preempted and will be computed
    again, output tokens included, from its old place in the queue. What tokens and blocks are left goes
    to waiting sequences, none out of turn, so that none starves.
    """

    __slots__ = ("_blocks", "_settings", "num_preemptions", "running", "waiting")

    def __init__(
        self, settings: SchedulerSettings, pool: BlockPool, prefix_cache: PrefixCache | None
    ) -> None:
        """`prefix_cache` None computes every prompt in full."""
        self._settings = settings
        self._blocks = SequenceBlocks(pool, prefix_cache)
        self.waiting: list[Sequence] = []
        self.running: list[Sequence] = []
        self.num_preemptions = 0

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence."""
        insort(self.waiting, sequence, key=_order)

    def remove(self, sequence: Sequence) -> None:
        """Take out a sequence that finished or was aborted and free its blocks at once."""
        queue = self.running if sequence.status is Status.RUNNING else self.waiting
        del queue[bisect_left(queue, sequence.order, key=_order)]
        sequence.status = Status.FINISHED
        self._blocks.release(sequence)

    def schedule(self) -> Step:
        """The next step; empty only when nothing runs or waits, or what waited was `outgrown`.

        A caller that runs the step calls `update` afterwards, and one that does not must not schedule
        again.
        """
        step = Step()
        spare_outputs = self._settings.max_outputs - self._settings.max_num_seqs
        spare_outputs = self._schedule_running(step, spare_outputs)
        if not step.preempted:
            self._schedule_waiting(step, spare_outputs)
        return step

    def update(self, step: Step) -> None:
        """The step ran: its tokens are computed, and the blocks that they filled can be shared."""
        for sequence, num_new in zip(step.sequences, step.num_new_tokens, strict=True):
            computed = sequence.num_computed_tokens + num_new
            sequence.num_computed_tokens = computed
            if computed >= (sequence.num_known_blocks + 1) * BLOCK_SIZE:
                self._blocks.offer(sequence)

    def _schedule_running(self, step: Step, spare_outputs: int) -> int:
        budget = self._settings.max_num_batched_tokens
        running, position = self.running, 0
        while position < len(running) and step.num_tokens < budget:
            sequence = running[position]
            num_new = len(sequence.token_ids) - sequence.num_computed_tokens
            if num_new > 1:
                num_new, spare_outputs = self._chunk(
                    sequence, num_new, budget - step.num_tokens, spare_outputs
                )
            end = sequence.num_computed_tokens + num_new
            if end > len(sequence.block_table) * BLOCK_SIZE and not self._grow(sequence, end, step):
                continue  # The sequence itself has left `running`; so has everything behind it.
            step.sequences.append(sequence)
            step.num_new_tokens.append(num_new)
            step.num_tokens += num_new
            position += 1
        return spare_outputs

    def _schedule_waiting(self, step: Step, spare_outputs: int) -> None:
        settings, waiting = self._settings, self.waiting
        while (
            waiting
            and len(self.running) < settings.max_num_seqs
            and step.num_tokens < settings.max_num_batched_tokens
        ):
            sequence = waiting[0]
            if not self._blocks.ever_fits(sequence):
                step.outgrown.append(sequence)
                self.remove(sequence)
                continue
            budget = settings.max_num_batched_tokens - step.num_tokens
            if not self._admit(sequence, budget):
                break
            num_new = len(sequence.token_ids) - sequence.num_computed_tokens
            num_new, spare_outputs = self._chunk(sequence, num_new, budget, spare_outputs)
            step.sequences.append(sequence)
            step.num_new_tokens.append(num_new)
            step.num_tokens += num_new

    def _chunk(self, sequence: Sequence, num_new: int, budget: int, spare_outputs: int) -> tuple[int, int]:
        """How many of `num_new` tokens fit, and the spare output rows that remain."""
        num_new = min(num_new, budget)
        if sequence.num_prompt_logprobs is None:
            return num_new, spare_outputs
        # Every row has logits: the last is the sequence's own, the others are spare.
        num_new = min(num_new, 1 + spare_outputs)
        return num_new, spare_outputs - (num_new - 1)

    def _grow(self, sequence: Sequence, num_tokens: int, step: Step) -> bool:
        """Give a running sequence blocks for `num_tokens` tokens, preempting those behind it if need be.

        Returns False if it was itself the last and so preempted, or removed because it has the pool alone.
        """
        while not self._blocks.grow(sequence, num_tokens):
            if len(self.running) == 1:
                step.outgrown.append(sequence)
                self.remove(sequence)
                return False
            victim = self.running[-1]
            self._preempt(victim)
            step.preempted.append(victim)
            if victim is sequence:
                return False
        return True

    def _preempt(self, sequence: Sequence) -> None:
        self.remove(sequence)
        sequence.status = Status.WAITING
        sequence.prompt_logprobs = [None]
        self.add(sequence)
        self.num_preemptions += 1

    def _admit(self, sequence: Sequence, budget: int) -> bool:
        """Move the head of the queue to `running` with blocks for all its tokens; False if it can not."""
        whole = not self._settings.chunked_prefill and sequence.num_prompt_logprobs is None
        if whole and len(sequence.token_ids) - self._blocks.num_cached(sequence) > budget:
            return False
        if not self._blocks.admit(sequence):
            return False
        del self.waiting[0]
        sequence.status = Status.RUNNING
        insort(self.running, sequence, key=_order)
        return True
