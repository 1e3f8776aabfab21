"""A sequence: the tokens of one request and where the engine is with them."""

from __future__ import annotations

from enum import Enum

from octavo.engine.messages import AddRequest, TokenLogprobs
from octavo.engine.prefix_cache import chain_digests, root_digest
from octavo.runtime.backend import BLOCK_SIZE
from octavo.sampling.state import SamplingState


class Status(Enum):
    """Where a sequence is: a preempted one waits again."""

    WAITING = 0
    RUNNING = 1
    FINISHED = 2


class Sequence:
    """The prompt and output tokens of a request, its KV blocks, and the state of its sampler.

    Of `token_ids` the first `num_computed_tokens` have their keys and values in the blocks of
    `block_table`; the others are still to be computed. That one number covers prefill, chunks of it,
    decode (one token short), and recomputation after preemption.
    """

    __slots__ = (
        "arrival_time",
        "block_table",
        "digests",
        "eos_token_ids",
        "is_long",
        "max_length",
        "num_cached_tokens",
        "num_computed_tokens",
        "num_known_blocks",
        "num_prompt_logprobs",
        "num_prompt_tokens",
        "order",
        "priority",
        "prompt_logprobs",
        "request_id",
        "row",
        "sampling",
        "scheduled_time",
        "status",
        "stop_token_ids",
        "token_ids",
        "user",
        "was_admitted",
    )

    def __init__(self, request: AddRequest, number: int, max_model_len: int, sampling: SamplingState) -> None:
        """`number` tells apart requests that arrived at the same time; lower goes first."""
        params = request.params
        self.request_id = request.request_id
        self.token_ids = request.prompt_token_ids + request.output_token_ids
        self.num_prompt_tokens = len(request.prompt_token_ids)
        self.num_computed_tokens = 0
        self.status = Status.WAITING
        self.priority = request.priority
        self.arrival_time = request.arrival_time
        self.user = request.user
        self.order = (request.priority, request.arrival_time, number)
        """What goes first, in the queue and in a step; a policy may change it on arrival."""
        self.is_long = False
        """Whether what there was to compute, when the sequence was admitted, is a long prompt."""

        self.block_table: list[int] = []
        self.row = -1
        """Row of the batch's persistent arrays that holds `block_table`; -1 for none."""
        self.digests = [root_digest(request.cache_salt)]
        """The root, then the digest of each full block: `digests[i + 1]` names block `i`."""
        self.num_known_blocks = 0
        """Leading blocks that were offered to the prefix cache, or came from it."""
        self.was_admitted = False
        self.scheduled_time = 0.0
        """`time.monotonic()` of the first step that ran it, for the time that it had to wait."""
        self.num_cached_tokens = 0
        """Prompt tokens that the prefix cache gave when the sequence was first admitted."""

        self.sampling = sampling
        self.eos_token_ids = frozenset(() if params.ignore_eos else request.eos_token_ids)
        self.stop_token_ids = frozenset(params.stop_token_ids)
        max_tokens = max_model_len if params.max_tokens is None else params.max_tokens
        self.max_length = min(self.num_prompt_tokens + max_tokens, max_model_len)

        # A stream that is resumed has sent its prompt's log probabilities with its first token.
        wanted = None if request.output_token_ids else params.prompt_logprobs
        self.num_prompt_logprobs = wanted
        """How many log probabilities each prompt token still needs; None when none (any more)."""
        self.prompt_logprobs: list[TokenLogprobs | None] = [None]
        """Those of the prompt tokens up to the first `num_computed_tokens`, and of the one after."""

    def __len__(self) -> int:
        return len(self.token_ids)

    def block_digests(self, count: int) -> list[bytes]:
        """The digests of the first `count` blocks, all full, each computed once."""
        digests = self.digests
        if len(digests) <= count:
            start = (len(digests) - 1) * BLOCK_SIZE
            digests += chain_digests(digests[-1], self.token_ids[start : count * BLOCK_SIZE])
        return digests[1 : count + 1]

    def finish_reason(self) -> tuple[str, int | None] | None:
        """Why the last token ends the sequence, as (finish reason, stop token id), or None.

        The sampler keeps end-of-sequence and stop tokens out until `min_tokens`.
        """
        last = self.token_ids[-1]
        if len(self.token_ids) > self.num_prompt_tokens:
            if last in self.eos_token_ids:
                return "stop", None
            if last in self.stop_token_ids:
                return "stop", last
        return ("length", None) if len(self.token_ids) >= self.max_length else None
