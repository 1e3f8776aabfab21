"""The scheduler: which sequences run in the next step, with how many tokens each.

No input or output, no model, no clock. One budget of tokens a step, and no separate prefill and decode
phases (Sarathi-Serve, Agrawal et al., 2024): whoever has tokens to compute gets some.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice, takewhile
from types import MappingProxyType

from octavo.engine.kv.block_pool import BlockPool
from octavo.engine.kv.offload.kv_offload import KVOffload, Restore
from octavo.engine.kv.prefix_cache import PrefixCache
from octavo.engine.kv.sequence_blocks import Copy, SequenceBlocks
from octavo.engine.scheduling.fair_share import FairShare
from octavo.engine.scheduling.policy import InOrder, Policy
from octavo.engine.scheduling.prompt_room import Chunk, PromptRoom
from octavo.engine.scheduling.scheduler_settings import SchedulerSettings
from octavo.engine.scheduling.token_budget import TokenBudget
from octavo.engine.sequence import Sequence, Status
from octavo.engine.step_time import prompt_pairs
from octavo.runtime.kv_cache import BLOCK_SIZE

__all__ = ["Scheduler", "SchedulerSettings", "Step"]

_NONE: Mapping[Sequence, int] = MappingProxyType({})
_LOOK_AHEAD = 16
"""How far down the queue to look: for what may go before long prompts that can not start, and for what is
due."""


@dataclass(slots=True)
class Step:
    """What to run: `sequences[i]` computes its next `num_new_tokens[i]` tokens, `num_tokens` in all.

    The first `num_decodes` compute one token, and their drafts after it, `num_drafts` in all. `num_outputs`
    are the rows of logits that it may ask for, at most. `num_pairs` are the (query, key) pairs of the step's
    attention, `num_prompt_pairs` of them of prompts. `copies` of blocks are to be made first, in order:
    their new owners go on from a part of the content. So are `restores`. `preempted` lost their blocks and
    wait again, or have got new ones in this very step. `outgrown` have become longer than the whole pool and
    were removed.
    """

    sequences: list[Sequence] = field(default_factory=list)
    num_new_tokens: list[int] = field(default_factory=list)
    num_tokens: int = 0
    num_decodes: int = 0
    num_drafts: int = 0
    num_outputs: int = 0
    num_pairs: int = 0
    num_prompt_pairs: int = 0
    copies: list[Copy] = field(default_factory=list)
    restores: list[Restore] = field(default_factory=list)
    preempted: list[Sequence] = field(default_factory=list)
    outgrown: list[Sequence] = field(default_factory=list)

    def add(self, chunk: Chunk) -> None:
        """Run a chunk of a prompt."""
        self.sequences.append(chunk.sequence)
        self.num_new_tokens.append(chunk.count)
        self.num_tokens += chunk.count
        self.num_outputs += 1 if chunk.sequence.num_prompt_logprobs is None else chunk.count
        num_pairs = prompt_pairs(chunk.count, chunk.context)
        self.num_pairs += num_pairs
        self.num_prompt_pairs += num_pairs


class Scheduler:
    """Continuous batching (Orca, Yu et al., 2022) over a block pool.

    A step serves all running sequences that decode, then those whose prompt is not computed yet; what
    tokens and blocks are left goes to waiting ones, in the order of the policy and none out of turn. When
    blocks run out the running sequence that is last by the policy is preempted: it will be computed again,
    output tokens included, from its old place in the queue.

    Drafts take what all these leave of a step's tokens, rows of logits and blocks: nothing waits for them.

    A long prompt leaves room for others. Beside it shorter ones start, and other long ones wait until it
    is done; while sequences decode, `TokenBudget` limits what it may take of a step.
    """

    __slots__ = ("_blocks", "_budget", "_max_running", "_policy", "_settings", "num_preemptions")

    def __init__(
        self,
        settings: SchedulerSettings,
        pool: BlockPool,
        prefix_cache: PrefixCache | None,
        offload: KVOffload | None = None,
    ) -> None:
        """`prefix_cache` None computes every prompt in full; `offload` keeps what falls out of it."""
        self._settings = settings
        self._policy = _make_policy(settings)
        self._budget = TokenBudget(settings.targets, settings.long_prefill_token_threshold)
        if offload is not None and prefix_cache is not None:
            offload.attach(prefix_cache, self._budget.step_time)
        self._blocks = SequenceBlocks(
            pool, prefix_cache, settings.kv_groups, settings.max_num_batched_tokens, offload
        )
        # Each that runs gets a token in every step, so that none waits for another's prompt.
        self._max_running = min(settings.max_num_seqs, settings.max_num_batched_tokens)
        self.num_preemptions = 0

    @property
    def running(self) -> list[Sequence]:
        """The sequences that have blocks."""
        return self._policy.running

    @property
    def waiting(self) -> Iterator[Sequence]:
        """The sequences in the queue, the next one first."""
        return iter(self._policy)

    @property
    def num_waiting(self) -> int:
        """How many sequences wait."""
        return self._policy.num_waiting

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence."""
        self._policy.arrive(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Take out a sequence that finished or was aborted and free its blocks at once."""
        self._policy.remove(sequence, runs=sequence.status is Status.RUNNING)
        sequence.status = Status.FINISHED
        self._blocks.release(sequence)

    def schedule(self, now: float = 0.0) -> Step:
        """The next step; empty only when nothing runs, and what waits is `outgrown` or being read from disk.

        `now` is the time, in the seconds of `Sequence.arrival_time`. A caller that runs the step calls
        `update` afterwards, and one that does not must not schedule again, unless all are decodes and
        nothing waits: those may have got a block early, which they keep.
        """
        step = Step()
        self._policy.arrange()
        self._make_way(step)
        num_preempted = len(step.preempted)
        prompts, drafted = self._schedule_decodes(step)
        # What had to go for want of blocks must not come back for those that are left.
        admit = self._policy.num_waiting > 0 and len(step.preempted) == num_preempted
        if prompts or admit:
            self._schedule_prompts(step, prompts, now, admit=admit)
        if drafted:
            self._schedule_drafts(step, drafted)
        return step

    def update(self, step: Step, accepted: Mapping[Sequence, int] = _NONE) -> None:
        """The step ran: its tokens are computed, and the blocks that they filled can be shared.

        `accepted` has how many drafts came true, of the sequences that had such: these are tokens of the
        sequence from now on. The others are forgotten, as if they had not been computed.
        """
        drops = self._blocks.drops
        num_computed = self._settle_drafts(step, accepted) if step.num_drafts else step.num_new_tokens
        for sequence, num_new in zip(step.sequences, num_computed, strict=True):
            if sequence.status is Status.FINISHED:
                continue  # Removed while the step ran: it has no blocks.
            computed = sequence.num_computed_tokens + num_new
            sequence.num_computed_tokens = computed
            if computed >= (sequence.num_known_blocks + 1) * BLOCK_SIZE:
                self._blocks.offer(sequence)
            if sequence.is_prompt and computed == len(sequence.token_ids):
                sequence.is_prompt = False
                if sequence.has_pending_blocks:
                    self._blocks.finish_prefill(sequence)
            if drops and computed >= sequence.next_drop:
                self._blocks.drop(sequence)
        self._blocks.finish_copies(step.copies)
        self._policy.computed(step.sequences, accepted)

    def observe(self, step: Step, seconds: float) -> None:
        """The step took that long; what later ones may hold follows from it."""
        self._budget.step_time.observe(
            step.num_tokens,
            step.num_pairs,
            seconds,
            with_prompt=step.num_decodes < len(step.sequences),
            num_prompt_pairs=step.num_prompt_pairs,
        )

    def check_blocks(self, step: Step | None = None) -> None:
        """Raise BlockIntegrityError unless every block is accounted for; `step` is one that has not ended."""
        self._blocks.check(self._policy.running, () if step is None else step.copies)

    def _schedule_decodes(self, step: Step) -> tuple[list[Sequence], list[int]]:
        """Every running sequence that decodes; returns the prompts, and the places of those with drafts."""
        running, position = self._policy.running, 0
        prompts: list[Sequence] = []
        drafted: list[int] = []
        while position < len(running):
            sequence = running[position]
            end = len(sequence.token_ids)
            if sequence.is_prompt:
                if end > sequence.num_slots and not self._extend(sequence, step):
                    continue
                prompts.append(sequence)
            elif end > sequence.num_slots and not self._grow(sequence, end, step):
                continue  # The sequence itself has left `running`; so has everything behind it.
            else:
                if sequence.drafts:
                    drafted.append(len(step.sequences))
                step.sequences.append(sequence)
                step.num_pairs += end
            position += 1
        step.num_decodes = step.num_tokens = step.num_outputs = len(step.sequences)
        step.num_new_tokens = [1] * step.num_decodes
        return prompts, drafted

    def _schedule_drafts(self, step: Step, drafted: list[int]) -> None:
        """Drafts of the sequences at these places, as far as there is room; none gives way to them."""
        for place in drafted:
            sequence = step.sequences[place]
            end = len(sequence.token_ids)
            count = sequence.cut_drafts(
                min(
                    self._settings.max_num_batched_tokens - step.num_tokens,
                    self._settings.max_outputs - step.num_outputs,
                )
            )
            if end + count > sequence.num_slots and not self._blocks.grow(sequence, end + count):
                count = sequence.cut_drafts(sequence.num_slots - end)
            step.num_new_tokens[place] += count
            step.num_tokens += count
            step.num_drafts += count
            step.num_outputs += count
            step.num_pairs += prompt_pairs(count, end)

    def _settle_drafts(self, step: Step, accepted: Mapping[Sequence, int]) -> list[int]:
        """How many tokens each sequence computed that it keeps; it has no drafts any more."""
        num_computed = list(step.num_new_tokens)
        for place, sequence in enumerate(step.sequences[: step.num_decodes]):
            count = accepted.get(sequence, 0)
            num_computed[place] = 1 + count
            sequence.token_ids += sequence.drafts[:count]
            sequence.drafts = []
        return num_computed

    def _schedule_prompts(self, step: Step, prompts: list[Sequence], now: float, *, admit: bool) -> None:
        """Chunks of the running `prompts`, at least one token each, and of waiting ones if `admit`.

        A long one gets its part of the room first, and what is left over last.
        """
        settings = self._settings
        chunks = [Chunk(each, each.num_computed_tokens, each.is_long, each.num_slots) for each in prompts]
        room = PromptRoom(
            self._budget.step_time,
            settings.max_num_batched_tokens - step.num_tokens,
            settings.max_outputs - settings.max_num_seqs,
        )
        if settings.chunked_prefill:
            self._budget.limit(room, step.num_decodes, step.num_pairs, self._prompts_to_come(prompts), now)
        for chunk in chunks:
            room.grow(chunk, 1)
        parts = settings.max_num_partial_prefills if len(chunks) + self._policy.num_waiting > 1 else 1
        long = [chunk for chunk in chunks if chunk.is_long]
        for index, chunk in enumerate(long):
            room.grow(chunk, room.most(chunk, parts - index))
        for chunk in chunks:
            if not chunk.is_long:
                room.grow(chunk, room.most(chunk))
        if admit:
            chunks += self._admit_waiting(step, chunks, room)
        for chunk in long:
            room.grow(chunk, room.most(chunk))
        for chunk in chunks:
            step.add(chunk)

    def _admit_waiting(self, step: Step, running: list[Chunk], room: PromptRoom) -> list[Chunk]:
        """Have waiting sequences run while there is room; returns their chunks."""
        settings = self._settings
        admitted: list[Chunk] = []
        num_partial = sum(chunk.num_left > 0 for chunk in running)
        num_long = sum(chunk.is_long for chunk in running)
        while room.tokens > 0 and len(self.running) < self._max_running:
            chunk = self._next_waiting(step, may_be_long=num_long < settings.max_long_partial_prefills)
            if chunk is None:
                break
            sequence, count = chunk.sequence, room.most(chunk)
            if chunk.is_long and room.is_timed:
                # To name and find its blocks takes the time that it may have of the step.
                count = min(count, 1)
            if not running and not admitted:
                count = max(count, 1)  # However short the time, some prompt goes on.
            if count < chunk.num_left:
                whole = not settings.chunked_prefill and sequence.num_prompt_logprobs is None
                if count == 0 or whole or num_partial == settings.max_num_partial_prefills:
                    break
            if self.running and not self._budget.allows(len(self.running) + 1, step.num_pairs):
                break
            num_uncomputed = chunk.num_left if not sequence.was_admitted else 0
            if not self._blocks.admit(sequence, step.copies, step.restores):
                break
            sequence.status, sequence.is_long = Status.RUNNING, chunk.is_long
            self._policy.admit(sequence, num_uncomputed)
            room.grow(chunk, count)
            num_partial += chunk.num_left > 0
            num_long += chunk.is_long
            admitted.append(chunk)
        return admitted

    def _next_waiting(self, step: Step, *, may_be_long: bool) -> Chunk | None:
        """The waiting sequence whose turn it is, its chunk still empty.

        Passed over are long ones if need be, and those that do better to wait for what another is about to
        compute or for what is being read from disk. Those that will never fit are removed.
        """
        for sequence in list(islice(self._policy, _LOOK_AHEAD)):
            if not self._blocks.ever_fits(sequence):
                step.outgrown.append(sequence)
                self.remove(sequence)
                continue
            if self._blocks.waits_for_others(sequence) or self._blocks.waits_for_disk(sequence):
                continue
            chunk = self._chunk_of_waiting(sequence)
            if may_be_long or not chunk.is_long:
                return chunk
        return None

    def _chunk_of_waiting(self, sequence: Sequence) -> Chunk:
        num_cached = self._blocks.num_cached(sequence)
        is_long = self._settings.is_long(len(sequence.token_ids) - num_cached)
        return Chunk(sequence, num_cached, is_long)

    def _prompts_to_come(self, prompts: list[Sequence]) -> Iterator[Chunk]:
        """All that prompts have left to compute: the running ones', then the next waiting ones'."""
        for sequence in prompts:
            yield Chunk(sequence, sequence.num_computed_tokens, sequence.is_long)
        for sequence in islice(self._policy, _LOOK_AHEAD):
            yield self._chunk_of_waiting(sequence)

    def _make_way(self, step: Step) -> None:
        """Preempt for the next waiting sequence, if those that yield to it leave enough room for it."""
        head = next(iter(self._policy), None)
        running = self._policy.running
        if head is None or not running or not self._policy.yields(running[-1], head):
            return
        if self._blocks.waits_for_disk(head):
            return
        chunk = self._chunk_of_waiting(head)
        num_long = sum(each.is_long and each.is_prompt for each in running)
        if chunk.is_long and num_long >= self._settings.max_long_partial_prefills:
            return
        yielding = list(takewhile(lambda each: self._policy.yields(each, head), reversed(running)))
        count = self._blocks.num_releases(head, yielding)
        if count is None:
            return
        if len(running) >= self._max_running:
            count = max(count, 1)
        for sequence in yielding[:count]:
            self._preempt(sequence, step)

    def _extend(self, sequence: Sequence, step: Step) -> bool:
        """Give a prompt that slides along a window blocks for its next chunk, for one token at least.

        Returns False as `_grow` does.
        """
        self._blocks.extend(sequence)
        next_end = sequence.num_computed_tokens + 1
        return next_end <= sequence.num_slots or self._grow(sequence, next_end, step)

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
            self._preempt(victim, step)
            if victim is sequence:
                return False
        return True

    def _preempt(self, sequence: Sequence, step: Step) -> None:
        self._policy.preempt(sequence)
        self._blocks.release(sequence)
        sequence.status = Status.WAITING
        sequence.is_prompt, sequence.drafts = True, []
        sequence.prompt_logprobs = [None]
        step.preempted.append(sequence)
        self.num_preemptions += 1


def _make_policy(settings: SchedulerSettings) -> Policy:
    if settings.policy == "fair":
        return FairShare()
    return InOrder(by_priority=settings.policy == "priority", aging=settings.priority_aging)
