"""What the engine holds at one moment, in bounded size, for people to look at.

It reads and changes nothing, and is asked between two steps: an engine that nobody watches does no work
for it.
"""

from __future__ import annotations

import time
from itertools import chain, islice

from octavo.engine.kv.block_pool import BlockPool
from octavo.engine.kv.prefix_cache import PrefixCache
from octavo.engine.kv.prefix_tree import prefix_tree
from octavo.engine.messages import DescribeState, EngineState, QueuedState, RunningState
from octavo.engine.scheduling.scheduler import Scheduler, Step
from octavo.engine.sequence import Sequence

MAX_CELLS = 4096
MAX_SEQUENCES = 256
MAX_TABLE_CELLS = 8192
"""Cells listed of all sequences together, each sequence that is listed having at least its first."""


def describe(
    request: DescribeState,
    pool: BlockPool,
    cache: PrefixCache | None,
    scheduler: Scheduler,
    last_step: Step | None,
) -> EngineState:
    """The state that `request` asks for; `last_step` has run already."""
    per_cell = -(-max(pool.num_touched, 1) // MAX_CELLS)
    cells = range(0, pool.num_touched, per_cell)
    running = list(islice(scheduler.running, MAX_SEQUENCES))
    state = EngineState(
        num_blocks=pool.num_blocks,
        num_free=pool.num_free,
        num_known=0 if cache is None else len(cache.known) - cache.known.count(None),
        blocks_per_cell=per_cell,
        holders=bytes(min(255, max(pool.ref_counts[cell : cell + per_cell])) for cell in cells),
        known=b"" if cache is None else bytes(_num_known(cache, cell, per_cell) for cell in cells),
        num_step_tokens=0,
        num_running=len(scheduler.running),
        running=_running(running, per_cell, last_step),
        num_queued=scheduler.num_waiting,
        queued=_queued(scheduler),
    )
    if last_step is not None and state.num_running:
        state.num_step_tokens = last_step.num_tokens
    if request.tree and cache is not None:
        held = chain.from_iterable(sequence.held_blocks for sequence in running)
        state.tree, state.num_hidden = prefix_tree(
            pool, cache, held, blocks_per_cell=per_cell, tokens=request.tokens
        )
    return state


def _num_known(cache: PrefixCache, start: int, count: int) -> int:
    contents = cache.known[start : start + count]
    return min(255, len(contents) - contents.count(None))


def _running(sequences: list[Sequence], per_cell: int, last_step: Step | None) -> list[RunningState]:
    num_new: dict[str, int] = {}
    if last_step is not None:
        for sequence, count in zip(last_step.sequences, last_step.num_new_tokens, strict=True):
            num_new[sequence.request_id] = count
    states, left = [], MAX_TABLE_CELLS - len(sequences)
    for sequence in sequences:
        # A cell of several blocks is listed once for those that follow one another in it.
        cells = list(dict.fromkeys(block // per_cell for block in sequence.held_blocks[: left + 1]))
        left -= len(cells) - 1
        states.append(
            RunningState(
                request_id=sequence.request_id,
                phase="prefill" if sequence.is_prompt else "decode",
                num_prompt=sequence.num_prompt_tokens,
                num_tokens=len(sequence.token_ids),
                num_computed=sequence.num_computed_tokens,
                num_cached=sequence.num_cached_tokens,
                max_length=sequence.max_length,
                num_new=num_new.get(sequence.request_id, 0),
                num_blocks=len(sequence.held_blocks),
                cells=cells,
            )
        )
    return states


def _queued(scheduler: Scheduler) -> list[QueuedState]:
    now = time.monotonic()
    return [
        QueuedState(
            request_id=sequence.request_id,
            num_prompt=sequence.num_prompt_tokens,
            num_tokens=len(sequence.token_ids),
            seconds=max(0.0, now - sequence.arrival_time),
            preempted=sequence.was_admitted,
        )
        for sequence in islice(scheduler.waiting, MAX_SEQUENCES)
    ]
