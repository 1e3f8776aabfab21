"""The prefix cache: which tokens each KV block holds, found again to the token.

It knows content: not requests, and of memory only what the `BlockPool` says.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from octavo.engine.kv.block_hash import common_tokens
from octavo.engine.kv.block_pool import BlockPool


@dataclass(slots=True, eq=False)
class KnownBlock:
    """What a block holds: `tokens` that follow the chain that ends in `parent`.

    `digest` is the block's own, None while it is not full; `is_first` says that `parent` is a root. The block
    has the keys and values of KV group `group`, which both digests tell apart from those of another.
    """

    digest: bytes | None
    parent: bytes
    tokens: bytes
    is_first: bool
    group: int = 0

    @property
    def token_ids(self) -> array[int]:
        """The tokens as numbers."""
        return array("i", self.tokens)


class PrefixCache:
    """A tree of blocks, each under its parent's digest: full ones are shared, any is copied from.

    A full block is looked up by its digest. Below the last one that is found, the block that shares most
    tokens with what follows gives those tokens by copy. It may be a full block that differs further on, or
    one that was never filled. The children of a digest are sorted, so the best one is beside the place where
    the tokens that are looked for would be. None is a prefix of another, because the longer one holds
    everything that the shorter one does. Source: PagedAttention (Kwon et al., 2023), section 4.4; the tree is
    that of RadixAttention (SGLang, Zheng et al., 2024) in blocks.

    A block stays known after its last sequence left, until the pool hands it out again. Free the blocks
    of a sequence last to first: leaves are then reused before their parents, without which they could
    not be found.

    `queries` and `hits` count tokens, looked for and found; the caller adds to them, since only it knows
    whether it took what there was.
    """

    __slots__ = ("_children", "_on_evict", "_on_insert", "_pool", "blocks", "hits", "known", "queries")

    def __init__(self, pool: BlockPool) -> None:
        self._pool = pool
        self.blocks: dict[bytes, int] = {}
        """The block of each digest."""
        self.known: list[KnownBlock | None] = [None] * pool.num_blocks
        """What each block of the pool holds; None where nobody could find it."""
        self._children: dict[bytes, list[tuple[bytes, int]]] = {}
        self._on_evict: Callable[[bytes, int], None] | None = None
        self._on_insert: Callable[[bytes], None] | None = None
        self.queries = 0
        self.hits = 0
        pool.on_reuse(self._evict)

    def __len__(self) -> int:
        """Number of full blocks known."""
        return len(self.blocks)

    @property
    def children(self) -> Mapping[bytes, list[tuple[bytes, int]]]:
        """The blocks under each parent's digest, sorted, with the tokens of each."""
        return self._children

    def on_evict(self, callback: Callable[[bytes, int], None]) -> None:
        """Call `callback(digest, block)` for a full block that the pool is about to hand out again."""
        self._on_evict = callback

    def on_insert(self, callback: Callable[[bytes], None]) -> None:
        """Call `callback(digest)` for a full block that has become known."""
        self._on_insert = callback

    def find(self, digest: bytes) -> int | None:
        """The block that holds `digest`, whether or not those before it are known."""
        return self.blocks.get(digest)

    def match_partial(self, parent: bytes, tokens: bytes) -> tuple[int, int]:
        """The block under `parent` that begins with most of `tokens`, and with how many of them.

        The number is 0, and the block means nothing, where none begins with the first of them.
        """
        children = self._children.get(parent)
        if children is None:
            return 0, 0
        place = bisect_left(children, (tokens, -1))
        best = (0, 0)
        for held, block in children[max(place - 1, 0) : place + 1]:
            count = common_tokens(held, tokens)
            if count > best[1]:
                best = (block, count)
        return best

    def insert(self, content: KnownBlock, block: int) -> int:
        """Make known that `block`, which the caller allocated and has computed, holds `content`, and is full.

        Returns the block that holds it from now on. A digest that is known already keeps its block: of two
        sequences that computed the same tokens side by side, the second can give its own back and share.
        """
        assert content.digest is not None
        known = self.blocks.get(content.digest, block)
        self._forget(block)
        if known == block:
            self.blocks[content.digest] = block
            self._add(content, block)
            if self._on_insert is not None:
                self._on_insert(content.digest)
        return known

    def insert_partial(self, content: KnownBlock, block: int) -> bool:
        """Make known that `block`, which is not full, begins with `content`.

        Returns False where another block holds all that already and `block` is of no use to anyone.
        """
        children = self._children.get(content.parent, ())
        place = bisect_left(children, (content.tokens, -1))
        if place < len(children) and children[place][0].startswith(content.tokens):
            return children[place][1] == block
        self._forget(block)
        self._add(content, block)
        return True

    def reset(self) -> None:
        """Forget every block that nobody holds."""
        for block, count in enumerate(self._pool.ref_counts):
            if count == 0:
                self._forget(block)

    def _add(self, content: KnownBlock, block: int) -> None:
        children = self._children.setdefault(content.parent, [])
        place = bisect_left(children, (content.tokens, -1))
        if place and content.tokens.startswith(children[place - 1][0]):
            shorter = children[place - 1][1]
            self.known[shorter] = None
            children[place - 1] = (content.tokens, block)
            self._pool.reuse_first(shorter)
        else:
            children.insert(place, (content.tokens, block))
        self.known[block] = content

    def _evict(self, block: int) -> None:
        content = self.known[block]
        if content is not None:
            if self._on_evict is not None and content.digest is not None:
                self._on_evict(content.digest, block)
            self._forget(block)

    def _forget(self, block: int) -> None:
        content = self.known[block]
        if content is None:
            return
        self.known[block] = None
        if content.digest is not None:
            del self.blocks[content.digest]
        children = self._children[content.parent]
        del children[bisect_left(children, (content.tokens, block))]
        if not children:
            del self._children[content.parent]
