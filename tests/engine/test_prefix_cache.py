"""The pool and the prefix cache together, against a model that knows what each block really holds."""

from __future__ import annotations

from array import array

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from octavo.engine.block_pool import BlockPool
from octavo.engine.prefix_cache import KnownBlock, PrefixCache, chain_digests, root_digest
from octavo.runtime.backend import BLOCK_SIZE

NUM_BLOCKS = 12


def known(digests: list[bytes], tokens: list[int], index: int) -> KnownBlock:
    """What the block at `index` of a sequence holds."""
    inside = tokens[index * BLOCK_SIZE : (index + 1) * BLOCK_SIZE]
    return KnownBlock(digests[index], digests[index - 1] if index else None, array("i", inside))


def content(*blocks: int) -> list[int]:
    """The tokens of full blocks, each of one repeated token."""
    return [token for token in blocks for _ in range(BLOCK_SIZE)]


class Machine(RuleBasedStateMachine):
    """Sequences come, share, grow and go; blocks are of one repeated token, so that prefixes recur."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = BlockPool(NUM_BLOCKS)
        self.cache = PrefixCache(self.pool)
        self.truth: dict[int, tuple[str, list[int]]] = {}  # Block -> salt and tokens up to its end.
        self.sequences: list[tuple[str, list[int], list[int]]] = []  # Salt, tokens, block table.

    def compute(self, salt: str, tokens: list[int], table: list[int], start: int) -> None:
        digests = chain_digests(root_digest(salt), tokens)
        for index in range(start, len(table)):
            assert self.pool.ref_counts[table[index]] == 1, "a shared block is written"
            self.truth[table[index]] = (salt, tokens[: (index + 1) * BLOCK_SIZE])
            self.cache.insert(known(digests, tokens, index), table[index])

    @rule(salt=st.sampled_from(["", "salt"]), blocks=st.lists(st.integers(0, 1), min_size=1, max_size=5))
    def begin(self, salt: str, blocks: list[int]) -> None:
        tokens = content(*blocks)
        cached = self.cache.match(chain_digests(root_digest(salt), tokens))
        for index, block in enumerate(cached):
            assert self.truth[block] == (salt, tokens[: (index + 1) * BLOCK_SIZE])
        self.pool.share(cached)
        new = self.pool.allocate(len(blocks) - len(cached))
        if new is None:
            self.pool.free(reversed(cached))
            return
        self.compute(salt, tokens, cached + new, len(cached))
        self.sequences.append((salt, tokens, cached + new))

    @precondition(lambda self: self.sequences)
    @rule(data=st.data(), token=st.integers(0, 1))
    def append(self, data: st.DataObject, token: int) -> None:
        salt, tokens, table = data.draw(st.sampled_from(self.sequences))
        new = self.pool.allocate(1)
        if new is not None:
            tokens += content(token)
            table += new
            self.compute(salt, tokens, table, len(table) - 1)

    @precondition(lambda self: self.sequences)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        *_, table = self.sequences.pop(data.draw(st.integers(0, len(self.sequences) - 1)))
        self.pool.free(reversed(table))

    @rule()
    def reset(self) -> None:
        held = {block for *_, table in self.sequences for block in table}
        findable = {block for block, content in enumerate(self.cache.known) if content is not None}
        self.cache.reset()
        assert len(self.cache) == len(held & findable)

    @invariant()
    def counts_add_up(self) -> None:
        tables = [block for *_, table in self.sequences for block in table]
        assert self.pool.ref_counts == [tables.count(block) for block in range(NUM_BLOCKS)]
        assert self.pool.num_free == NUM_BLOCKS - len(set(tables))

    @invariant()
    def tables_hold_what_was_computed(self) -> None:
        for salt, tokens, table in self.sequences:
            for index, block in enumerate(table):
                assert self.truth[block] == (salt, tokens[: (index + 1) * BLOCK_SIZE])

    @invariant()
    def everything_known_is_true(self) -> None:
        for digest, block in self.cache._blocks.items():
            salt, tokens = self.truth[block]
            assert chain_digests(root_digest(salt), tokens)[-1] == digest
            held = self.cache.known[block]
            assert held is not None
            assert held.digest == digest
            assert chain_digests(held.parent or root_digest(salt), held.token_ids) == [digest]
            assert list(held.token_ids) == tokens[-BLOCK_SIZE:]
            assert (held.parent is None) == (len(tokens) == BLOCK_SIZE)


Machine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
test_machine = Machine.TestCase


def test_children_are_evicted_before_their_parents():
    pool = BlockPool(5)
    cache = PrefixCache(pool)
    tokens = content(1, 2, 3, 4, 5)
    digests = chain_digests(root_digest(""), tokens)
    table = pool.allocate(5)
    for index, block in enumerate(table):
        cache.insert(known(digests, tokens, index), block)
    pool.free(reversed(table))
    for left in (4, 3, 2, 1, 0):
        pool.allocate(1)
        assert cache.match(digests) == table[:left]


def test_a_digest_depends_on_salt_parent_and_order():
    chains = [
        chain_digests(root_digest(salt), content(*blocks))
        for salt in ("", "salt")
        for blocks in ((1, 2), (2, 1), (2, 2))
    ]
    assert len({digest for chain in chains for digest in chain}) == 10  # Of 12, (2,) is shared twice.


def test_only_full_blocks_have_a_digest_and_a_chain_can_be_continued():
    tokens = list(range(3 * BLOCK_SIZE + 5))
    root = root_digest("")
    whole = chain_digests(root, tokens)
    assert len(whole) == 3
    assert whole == whole[:1] + chain_digests(whole[0], tokens[BLOCK_SIZE:])
    assert chain_digests(root, tokens[: BLOCK_SIZE - 1]) == []


def test_the_first_of_two_equal_blocks_stays():
    pool = BlockPool(2)
    cache = PrefixCache(pool)
    digests = chain_digests(root_digest(""), content(1))
    first, second = pool.allocate(2)
    cache.insert(known(digests, content(1), 0), first)
    cache.insert(known(digests, content(1), 0), second)
    assert cache.match(digests) == [first]
    pool.free([second])
    pool.allocate(1)
    assert cache.match(digests) == [first]
