"""What the live view is told, as JSON objects with a `type`."""

from __future__ import annotations

import msgspec

from octavo.engine.messages import EngineState, PrefixNode, QueuedState, RunningState


class Latency(msgspec.Struct):
    """Of the values of one second: how many there were, the median and the 95th percentile, in seconds."""

    count: int
    median: float
    p95: float


class Second(msgspec.Struct, tag="second"):
    """About one second, which ended at `time` (seconds since 1970): rates are tokens per second."""

    time: float
    generated: float
    prefill: float
    num_running: int
    num_queued: int
    ttft: Latency | None
    gap: Latency | None


class Hello(msgspec.Struct, tag="hello", kw_only=True):
    """The first event: what runs here, and the seconds that were watched before."""

    version: str
    models: list[str]
    isa: str
    block_size: int
    num_blocks: int
    kv_cache_bytes: int
    max_model_len: int
    max_num_seqs: int
    max_num_batched_tokens: int
    shows_text: bool
    seconds: list[Second]


class State(msgspec.Struct, tag="state"):
    """`EngineState` without its tree; `holders` and `known` are base64."""

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

    @classmethod
    def of(cls, state: EngineState) -> State:
        """The event for a state."""
        return cls(*(getattr(state, name) for name in cls.__struct_fields__))


class Node(msgspec.Struct):
    """`PrefixNode` with its first words, empty where text is not shown."""

    parent: int
    num_blocks: int
    num_holders: int
    cell: int
    text: str

    @classmethod
    def of(cls, node: PrefixNode, text: str) -> Node:
        """A node for people."""
        return cls(node.parent, node.num_blocks, node.num_holders, node.cell, text)


class Tree(msgspec.Struct, tag="tree"):
    """The cached prefixes, each node after its parent; `num_hidden` more nodes are left out."""

    nodes: list[Node]
    num_hidden: int


class Down(msgspec.Struct, tag="down"):
    """No engine runs at the moment."""


Event = Hello | State | Tree | Second | Down
