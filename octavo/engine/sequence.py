"""A sequence: the tokens of one request and where the engine is with them."""

from __future__ import annotations

from enum import Enum

from octavo.engine.kv.block_hash import BlockHasher, token_bytes
from octavo.engine.kv.block_table import BlockTable
from octavo.engine.kv.offload.disk_reader import Load
from octavo.engine.messages import AddRequest
from octavo.runtime.kv_cache import BLOCK_SIZE
from octavo.sampling.logprobs import TokenLogprobs
from octavo.sampling.state import SamplingState
from octavo.structured.matcher import Matcher


class Status(Enum):
    """Where a sequence is: a preempted one waits again."""

    WAITING = 0
    RUNNING = 1
    FINISHED = 2


class Sequence:
    """The prompt and output tokens of a request, its KV blocks, and the state of its sampler.

    Of `token_ids` the first `num_computed_tokens` have their keys and values in the blocks of
    `tables`; the others are still to be computed. That one number covers prefill, chunks of it,
    decode (one token short), and recomputation after preemption.
    """

    __slots__ = (
        "_hasher",
        "_prompt_digest",
        "arrival_time",
        "digests",
        "drafts",
        "eos_token_ids",
        "has_new_blocks",
        "has_pending_blocks",
        "is_long",
        "is_prompt",
        "load",
        "matcher",
        "max_length",
        "next_drop",
        "num_cached_tokens",
        "num_computed_tokens",
        "num_known_blocks",
        "num_prompt_logprobs",
        "num_prompt_tokens",
        "num_slots",
        "options",
        "order",
        "prompt_logprobs",
        "request_id",
        "row",
        "sampling",
        "scheduled_time",
        "skips_prefix_cache",
        "status",
        "stop_token_ids",
        "tables",
        "token_ids",
        "was_admitted",
    )

    def __init__(
        self,
        request: AddRequest,
        number: int,
        max_model_len: int,
        sampling: SamplingState,
        hasher: BlockHasher | None = None,
        root: bytes | None = None,
    ) -> None:
        """`number` tells apart requests that arrived at the same time; lower goes first.

        `hasher` names its blocks, in a chain that begins with `root`, by default that of its cache salt.
        Without one no blocks are named: it shares none.
        """
        params = request.params
        self.request_id = request.request_id
        self.token_ids = request.prompt_token_ids + request.output_token_ids
        self.num_prompt_tokens = len(request.prompt_token_ids)
        self.num_computed_tokens = 0
        self.status = Status.WAITING
        self.options = request.options
        self.arrival_time = request.arrival_time
        self.order = (request.options.priority, request.arrival_time, number)
        """What goes first, in the queue and in a step; a policy may change it on arrival."""
        self.is_long = False
        """Whether what there was to compute, when the sequence was admitted, is a long prompt."""
        self.is_prompt = True
        """Whether no token was sampled since it was admitted; output tokens that are computed again count as
        a prompt too."""
        self.drafts: list[int] = []
        """Guesses at its next tokens. The next step computes them as far as there is room and keeps those
        that are the tokens it samples, so that they can be wrong, but must be ids of the vocabulary."""

        self.tables: list[BlockTable] = []
        """One a KV group, none while it has no blocks."""
        self.num_slots = 0
        """How many of its tokens, from the first, have a slot in the blocks of every table."""
        self.next_drop = 0
        """How many tokens are computed when the next of its blocks is out of a window."""
        self.row = -1
        """Row of the batch's persistent arrays that holds its tables; -1 for none."""
        self.has_new_blocks = False
        """Whether its tables changed since they were written there."""
        self._hasher = hasher
        self._prompt_digest = b""
        self.digests = [] if hasher is None else [root or hasher.root(request.options.cache_salt)]
        """The root, then the digest of each full block: `digests[i + 1]` names block `i`."""
        self.num_known_blocks = 0
        """Leading blocks that were offered to the prefix cache, or came from it."""
        self.has_pending_blocks = False
        """Whether others may wait for the blocks that it is about to compute."""
        self.load: Load | None = None
        """The blocks that it waits for while they are read from disk, or has waited for; None before that."""
        self.skips_prefix_cache = bool(params.skip_reading_prefix_cache)
        """Whether it computes its whole prompt, be it cached or not; others may read its blocks."""
        self.was_admitted = False
        self.scheduled_time = 0.0
        """`time.monotonic()` of the first step that ran it, for the time that it had to wait."""
        self.num_cached_tokens = 0
        """Prompt tokens that the prefix cache gave when the sequence was first admitted."""

        self.sampling = sampling
        self.matcher: Matcher | None = None
        """Where the output is in its grammar, if it has one."""
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

    @property
    def held_blocks(self) -> list[int]:
        """The blocks that it has a reference to."""
        return [block for table in self.tables for block in table.held]

    @property
    def is_cacheable(self) -> bool:
        """Whether its blocks have names, by which others may find them."""
        return self._hasher is not None

    def block_digests(self, count: int) -> list[bytes]:
        """The digests of the first `count` blocks, all full, each computed once; none without a hasher."""
        digests = self.digests
        if len(digests) <= count and self._hasher is not None:
            start = (len(digests) - 1) * BLOCK_SIZE
            digests += self._hasher.chain(digests[-1], self.token_ids[start : count * BLOCK_SIZE])
        return digests[1 : count + 1]

    def prompt_digest(self) -> bytes:
        """The digest of the whole prompt, the block that it does not fill included; needs a hasher."""
        if not self._prompt_digest:
            assert self._hasher is not None
            full = self.num_prompt_tokens // BLOCK_SIZE
            self.block_digests(full)
            rest = self.token_ids[full * BLOCK_SIZE : self.num_prompt_tokens]
            self._prompt_digest = self._hasher.partial(self.digests[full], rest)
        return self._prompt_digest

    def block_tokens(self, index: int, end: int) -> bytes:
        """The tokens of block `index` at positions before `end`, as the prefix cache compares them."""
        return token_bytes(self.token_ids[index * BLOCK_SIZE : min((index + 1) * BLOCK_SIZE, end)])

    def stops_at(self, token_id: int) -> bool:
        """Whether the sequence ends with this output token, be it never so short."""
        return token_id in self.eos_token_ids or token_id in self.stop_token_ids

    def cut_drafts(self, most: int) -> int:
        """Keep `most` drafts at most, and none that would end the sequence; returns how many are left.

        So whatever is accepted of them, only the token after them can be the last one.
        """
        most = max(0, min(most, self.max_length - len(self.token_ids) - 1))
        for index, token_id in enumerate(self.drafts[:most]):
            if self.stops_at(token_id):
                most = index
                break
        del self.drafts[most:]
        return len(self.drafts)

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
