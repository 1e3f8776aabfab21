"""What crosses the process boundary between the API process and the engine process.

msgspec structs as MessagePack over ZeroMQ: typed, versionless within a release, no pickle. The API process
is the one that remembers: `AddRequest` can carry tokens that a stream has emitted already, so an engine
process that died is replaced by resubmitting each open stream.
"""

from __future__ import annotations

import msgspec

from octavo.request_options import RequestOptions
from octavo.sampling.logprobs import TokenLogprobs
from octavo.sampling_params import SamplingParams
from octavo.structured.vocabulary import Vocabulary


class AddRequest(msgspec.Struct, tag="add", array_like=True):
    """Start one sequence, or go on with one: `output_token_ids` are those already emitted.

    `params.seed` is always set (the API process draws it), so that the same message always gives the same
    tokens. `arrival_time` is `time.monotonic()` of the machine.
    """

    request_id: str
    prompt_token_ids: list[int]
    params: SamplingParams
    eos_token_ids: list[int]
    arrival_time: float
    output_token_ids: list[int] = []
    options: RequestOptions = RequestOptions()


class AbortRequests(msgspec.Struct, tag="abort", array_like=True):
    """Stop these sequences and free their blocks; unknown ids are ignored."""

    request_ids: list[str]


class ResetPrefixCache(msgspec.Struct, tag="reset_prefix_cache", array_like=True):
    """Forget every cached block that no sequence holds."""


class DescribeState(msgspec.Struct, tag="describe", array_like=True):
    """Ask for one `EngineState`; with the tree of prefixes, and the first tokens of each of its edges."""

    tree: bool = False
    tokens: bool = False


class Shutdown(msgspec.Struct, tag="shutdown", array_like=True):
    """Leave after the current step."""


class ForgetClient(msgspec.Struct, tag="forget", array_like=True):
    """A process that was a client of the engine too is gone: its requests end, its blocks are free."""

    name: str


FromClient = Vocabulary | AddRequest | AbortRequests | ResetPrefixCache | DescribeState
"""What every client may send; the process that the engine belongs to may also send the others."""
ToEngine = FromClient | ForgetClient | Shutdown


class SequenceOutput(msgspec.Struct, array_like=True):
    """What one step gave one sequence.

    `finish_reason` is "stop", "length" or "abort" on the last one; `stop_reason` the stop token id, None
    for end-of-sequence. `prompt_logprobs` comes once, with the first token: None for position 0, then one
    entry for each prompt token. `num_cached_tokens` are prompt tokens that the prefix cache gave.
    `scheduled_time` is the machine's `time.monotonic()` when this engine first ran the sequence, 0 if never.
    """

    request_id: str
    token_ids: list[int]
    finish_reason: str | None = None
    stop_reason: int | None = None
    logprobs: list[TokenLogprobs] | None = None
    prompt_logprobs: list[TokenLogprobs | None] | None = None
    num_cached_tokens: int = 0
    scheduled_time: float = 0.0


class OffloadStats(msgspec.Struct, array_like=True):
    """What the tiers behind the KV cache did, in blocks, and what they hold.

    `queries` and `hits` are prompt tokens: those that the prefix cache did not have, and those of them that
    were restored. `offloaded` were copied to host memory; `written` to disk, and `dropped` on the way there.
    """

    queries: int = 0
    hits: int = 0
    offloaded: int = 0
    written: int = 0
    dropped: int = 0
    restored_from_host: int = 0
    restored_from_disk: int = 0
    host_blocks: int = 0
    disk_blocks: int = 0
    disk_bytes: int = 0


class BlockEviction(msgspec.Struct, array_like=True):
    """A KV block that was handed out again: seconds since it was before, and since its content was used.

    `reuse_gaps` are those between the uses.
    """

    lifetime: float
    idle: float
    reuse_gaps: list[float]


class SchedulerStats(msgspec.Struct, array_like=True):
    """The engine's state after a step, for metrics and the live view."""

    num_running: int = 0
    num_waiting: int = 0
    num_blocks: int = 0
    num_free_blocks: int = 0
    num_preemptions: int = 0
    prefix_cache_queries: int = 0
    prefix_cache_hits: int = 0
    num_scheduled_tokens: int = 0
    step_seconds: float = 0.0
    num_scheduled_sequences: int = 0
    offload: OffloadStats | None = None
    evictions: list[BlockEviction] = []
    """Of the step alone, of blocks that are followed."""

    def after(self, past: SchedulerStats) -> SchedulerStats:
        """With the totals of engines that came before added."""
        return msgspec.structs.replace(
            self,
            num_preemptions=self.num_preemptions + past.num_preemptions,
            prefix_cache_queries=self.prefix_cache_queries + past.prefix_cache_queries,
            prefix_cache_hits=self.prefix_cache_hits + past.prefix_cache_hits,
        )


class StepOutputs(msgspec.Struct, tag="step", array_like=True):
    """The outputs of one step. Counters in `stats` are totals since the engine process began."""

    outputs: list[SequenceOutput]
    stats: SchedulerStats


class RunningState(msgspec.Struct):
    """A sequence that has blocks. Of `num_tokens` tokens the first `num_computed` are in the KV cache.

    `num_new` were in the last step. `cells` are the cells of `EngineState` that its blocks, in order, fall
    in; what all sequences hold together is bounded, so it may lack the last ones of `num_blocks`.
    """

    request_id: str
    phase: str
    num_prompt: int
    num_tokens: int
    num_computed: int
    num_cached: int
    max_length: int
    num_new: int
    num_blocks: int
    cells: list[int]


class QueuedState(msgspec.Struct):
    """A sequence that waits; `seconds` since it arrived. One that was preempted has run before."""

    request_id: str
    num_prompt: int
    num_tokens: int
    seconds: float
    preempted: bool


class PrefixNode(msgspec.Struct):
    """An edge of the tree of cached prefixes: `num_blocks` blocks in a row with no branch between them.

    Each is held by `num_holders` sequences. `parent` is the index of the node before it, which comes
    earlier in the list, -1 for none; `cell` is where its first block falls; `token_ids` are its first
    tokens, empty unless asked for.
    """

    parent: int
    num_blocks: int
    num_holders: int
    cell: int
    token_ids: list[int] = []


class EngineState(msgspec.Struct, tag="state", array_like=True):
    """What the engine holds between two steps, in bounded size, for people to look at.

    The pool is drawn as cells of `blocks_per_cell` blocks each, in order, up to the last block that was ever
    used. `holders` and `known` have a byte for each cell. The byte of `holders` is the number of sequences
    that hold the cell's most shared block (255 for more). The byte of `known` is the number of its blocks
    that the prefix cache knows, full or not. `running` and `queued` are the first of `num_running` and
    `num_queued`. `tree` is None unless asked for, and lacks `num_hidden` nodes.
    """

    num_blocks: int
    num_free: int
    num_known: int
    blocks_per_cell: int
    holders: bytes
    known: bytes
    num_step_tokens: int
    num_running: int
    running: list[RunningState]
    num_queued: int
    queued: list[QueuedState]
    tree: list[PrefixNode] | None = None
    num_hidden: int = 0


class EngineReady(msgspec.Struct, tag="ready", array_like=True):
    """The engine process has loaded its model and takes requests."""

    num_blocks: int
    max_model_len: int
    weight_bytes: int
    kv_cache_bytes: int
    isa: str
    kv_tokens: int
    """Tokens of sequences of `max_model_len` that the KV cache has room for."""


class EngineFailed(msgspec.Struct, tag="failed", array_like=True):
    """The engine process could not start, or a step raised; it leaves after this."""

    error: str


FromEngine = StepOutputs | EngineState | EngineReady | EngineFailed
