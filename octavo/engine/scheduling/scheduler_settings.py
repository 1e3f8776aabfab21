"""The bounds and the policy that a scheduler keeps to."""

from __future__ import annotations

from dataclasses import dataclass, field

from octavo.engine.kv.kv_groups import KVGroup
from octavo.engine.scheduling.token_budget import Targets

POLICIES = ("fcfs", "priority", "fair")


@dataclass(frozen=True, slots=True)
class SchedulerSettings:
    """What the scheduler may do in a step, and in whose favour.

    `max_outputs` rows may ask for logits, at least `max_num_seqs`; those beyond are for prompt log
    probabilities. Without `chunked_prefill` a prompt is computed in one step, so `max_num_batched_tokens`
    must be at least the length of the longest sequence; only a prompt that wants log probabilities is
    still split, by output rows.

    Of prompts that are computed in part at most `max_num_partial_prefills` run at a time, and at most
    `max_long_partial_prefills` of those are long. A prompt is long when it has more tokens to compute than
    `long_prefill_token_threshold`, and then gets at most that many in a step. With 0 a prompt is long when it
    does not fit in a step, and its part of a step follows from the time that it takes.

    Sequences have a block table for each of `kv_groups`; what falls out of a group's window is given back.

    Raises ValueError, naming the field, for what could not run.
    """

    max_num_seqs: int
    max_num_batched_tokens: int
    max_outputs: int
    chunked_prefill: bool = True
    max_num_partial_prefills: int = 2
    max_long_partial_prefills: int = 1
    long_prefill_token_threshold: int = 0
    policy: str = "fcfs"
    priority_aging: float = 0.0
    targets: Targets = field(default_factory=Targets)
    kv_groups: tuple[KVGroup, ...] = (KVGroup(),)

    def __post_init__(self) -> None:
        if min(self.max_num_seqs, self.max_num_batched_tokens) < 1:
            raise ValueError("max_num_seqs and max_num_batched_tokens must be at least 1")
        if self.max_outputs < self.max_num_seqs:
            raise ValueError(f"max_outputs must be at least max_num_seqs, {self.max_num_seqs}")
        if not 1 <= self.max_long_partial_prefills <= self.max_num_partial_prefills:
            raise ValueError(
                "max_long_partial_prefills (--max-long-partial-prefills) must be from 1 to "
                f"max_num_partial_prefills={self.max_num_partial_prefills}, "
                f"got {self.max_long_partial_prefills}"
            )
        if self.long_prefill_token_threshold < 0:
            raise ValueError("long_prefill_token_threshold must be at least 0")
        if self.policy not in POLICIES:
            raise ValueError(f"policy must be one of {', '.join(POLICIES)}; got {self.policy!r}")

    def is_long(self, num_tokens: int) -> bool:
        """Whether a prompt with that many tokens to compute is a long one."""
        if not self.chunked_prefill:
            return False
        return num_tokens > (self.long_prefill_token_threshold or self.max_num_batched_tokens)
