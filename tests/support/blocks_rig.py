"""Blocks of sequences and a memory that is really written: whoever runs must find its own tokens there."""

from __future__ import annotations

from support.kv_layers import groups_of, window_of

from octavo.engine.kv.block_hash import BlockHasher
from octavo.engine.kv.block_pool import BlockPool
from octavo.engine.kv.cached_prefix import group_digest
from octavo.engine.kv.kv_groups import most_blocks
from octavo.engine.kv.prefix_cache import PrefixCache
from octavo.engine.kv.sequence_blocks import SequenceBlocks
from octavo.engine.messages import AddRequest
from octavo.engine.sequence import Sequence, Status
from octavo.request_options import RequestOptions
from octavo.runtime.kv_cache import BLOCK_SIZE
from octavo.sampling.state import SamplingState
from octavo.sampling_params import SamplingParams

HASHER = BlockHasher()
MAX_LEN = 5 * BLOCK_SIZE
NUM_BLOCKS = 9


def make_sequence(
    number: int, prompt: list[int], *, hasher: BlockHasher | None = HASHER, salt="", skip=False
):
    params = SamplingParams(temperature=0.0, max_tokens=None, skip_reading_prefix_cache=skip)
    request = AddRequest(
        str(number), prompt, params, [], float(number), options=RequestOptions(cache_salt=salt)
    )
    return Sequence(request, number, MAX_LEN, SamplingState(params, prompt, [], [], 1000), hasher)


class Rig:
    """Blocks, the memory behind them, and what a step does to both."""

    def __init__(
        self, num_blocks: int = NUM_BLOCKS, windows: tuple[int, ...] = (0,), chunk: int = MAX_LEN
    ) -> None:
        self.groups = groups_of(windows)
        self.chunk = chunk
        self.pool = BlockPool(num_blocks)
        self.cache = PrefixCache(self.pool)
        self.blocks = SequenceBlocks(self.pool, self.cache, self.groups, chunk)
        self.memory = [[-1] * BLOCK_SIZE for _ in range(num_blocks)]
        self.group_of = [-1] * num_blocks
        self.running: list[Sequence] = []

    def admit(self, sequence: Sequence) -> bool:
        copies = []
        if not self.blocks.admit(sequence, copies, []):
            assert not copies
            return False
        for source, destination in copies:
            self.memory[destination] = list(self.memory[source])
            self.group_of[destination] = self.group_of[source]
        self.blocks.finish_copies(copies)
        sequence.status = Status.RUNNING
        self.running.append(sequence)
        return True

    def compute(self, sequence: Sequence, count: int) -> bool:
        """So many tokens, in chunks; False if there were too few blocks for all."""
        while count:
            if len(sequence) > sequence.num_slots:
                self.blocks.extend(sequence)
            num_new = min(count, self.chunk, sequence.num_slots - sequence.num_computed_tokens)
            if not num_new:
                assert self.pool.num_free < len(self.groups)
                return False
            self.compute_chunk(sequence, num_new)
            count -= num_new
        return True

    def compute_chunk(self, sequence: Sequence, count: int) -> None:
        end = sequence.num_computed_tokens + count
        for group, table in enumerate(sequence.tables):
            for position in range(sequence.num_computed_tokens, end):
                block = table.blocks[position // BLOCK_SIZE]
                assert self.pool.ref_counts[block] == 1, "a shared block is written"
                self.memory[block][position % BLOCK_SIZE] = sequence.token_ids[position]
                self.group_of[block] = group
        sequence.num_computed_tokens = end
        if end >= (sequence.num_known_blocks + 1) * BLOCK_SIZE:
            self.blocks.offer(sequence)
        if sequence.has_pending_blocks and end == len(sequence):
            self.blocks.finish_prefill(sequence)
        if self.blocks.drops and end >= sequence.next_drop:
            self.blocks.drop(sequence)

    def leave(self, sequence: Sequence, status: Status) -> None:
        self.running.remove(sequence)
        sequence.status = status
        self.blocks.release(sequence)

    def run(self, sequence: Sequence) -> int:
        """Admit, compute and release a sequence; returns how many tokens the cache gave."""
        assert self.admit(sequence)
        given = sequence.num_computed_tokens
        self.compute(sequence, len(sequence) - given)
        self.leave(sequence, Status.FINISHED)
        return given

    def check(self) -> None:
        for sequence in self.running:
            computed = sequence.num_computed_tokens
            assert len(sequence.held_blocks) <= most_blocks(self.groups, len(sequence), self.chunk)
            for number, (group, table) in enumerate(zip(self.groups, sequence.tables, strict=True)):
                held = [token for block in table.blocks for token in self.memory[block]]
                window = window_of(group)
                seen = max(0, computed - window + 1) if window else 0
                assert held[seen:computed] == sequence.token_ids[seen:computed]
                used = table.blocks[seen // BLOCK_SIZE : -(-computed // BLOCK_SIZE)]
                assert {self.group_of[block] for block in used} <= {number}
                assert table.num_dropped == seen // BLOCK_SIZE
                assert len(table.held) <= group.need.most_blocks(len(sequence), self.chunk)
        self.check_cache()

    def check_cache(self) -> None:
        """Every block is accounted for, and whatever is known is true."""
        self.blocks.check(self.running)
        for block, entry in enumerate(self.cache.known):
            if entry is not None:
                count = len(entry.tokens) // 4
                assert entry.tokens == make_sequence(0, self.memory[block]).block_tokens(0, count)
                assert entry.group == self.group_of[block]
                if entry.digest is not None:
                    parent = group_digest(entry.parent, entry.group)
                    (digest,) = HASHER.chain(parent, self.memory[block])
                    assert entry.digest == group_digest(digest, entry.group)
