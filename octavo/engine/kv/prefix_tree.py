"""The tree of cached prefixes, of bounded size, for people to look at.

The cache finds a block by the digest of everything up to its end; a tree is those blocks by the digest of
the block before them. Runs of blocks without a branch are one edge, as in a radix tree.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from itertools import chain, islice

from octavo.engine.kv.block_pool import BlockPool
from octavo.engine.kv.prefix_cache import KnownBlock, PrefixCache
from octavo.engine.messages import PrefixNode

MAX_NODES = 512
MAX_BLOCKS = 4096
"""Blocks that are looked at: those that sequences hold, then the most recently freed."""
MAX_TOKENS = 16
"""Tokens shown of an edge."""


@dataclass(slots=True)
class _Edge:
    """A run of blocks held by equally many sequences; `weight` counts the blocks from here on."""

    blocks: list[int]
    num_holders: int
    parent: _Edge | None
    children: list[_Edge] = field(default_factory=list)
    weight: int = 0

    @property
    def rank(self) -> tuple[int, int, int]:
        """Most shared first, then the largest; the block makes it unique."""
        return -self.num_holders, -self.weight, self.blocks[0]


def prefix_tree(
    pool: BlockPool, cache: PrefixCache, held: Iterable[int], *, blocks_per_cell: int, tokens: bool
) -> tuple[list[PrefixNode], int]:
    """The nodes, each after its parent, and how many more were left out.

    `held` are the blocks of running sequences, each sequence's in order. `tokens` gives each node the first
    tokens of its edge. A block whose prefix is gone can not be found and is in no tree, and one that is not
    full is not worth showing. The blocks of the first KV group stand for those of all.
    """
    edges = _edges(_by_parent(pool, cache, held), cache, pool.ref_counts)
    for edge in reversed(edges):
        if edge.parent is not None:
            edge.parent.weight += edge.weight
    nodes: list[PrefixNode] = []
    heap = [(edge.rank, -1, edge) for edge in edges if edge.parent is None]
    heapify(heap)
    while heap and len(nodes) < MAX_NODES:
        _, parent, edge = heappop(heap)
        for child in edge.children:
            heappush(heap, (child.rank, len(nodes), child))
        first = edge.blocks[0]
        node = PrefixNode(parent, len(edge.blocks), edge.num_holders, first // blocks_per_cell)
        if tokens:
            node.token_ids = list(islice(_token_ids(cache, edge.blocks), MAX_TOKENS))
        nodes.append(node)
    return nodes, len(edges) - len(nodes)


def _by_parent(pool: BlockPool, cache: PrefixCache, held: Iterable[int]) -> dict[bytes | None, list[int]]:
    """Full blocks by the digest of the block before them, first ones by None."""
    seen = set[int]()
    children: dict[bytes | None, list[int]] = {}
    for block in chain(islice(held, MAX_BLOCKS), islice(pool.newest_free(), MAX_BLOCKS)):
        content = cache.known[block]
        if content is None or content.digest is None or content.group or block in seen:
            continue
        seen.add(block)
        children.setdefault(None if content.is_first else content.parent, []).append(block)
        if len(seen) == MAX_BLOCKS:
            break
    return children


def _edges(children: dict[bytes | None, list[int]], cache: PrefixCache, ref_counts: list[int]) -> list[_Edge]:
    """All edges, each after its parent."""
    edges: list[_Edge] = []
    todo: list[tuple[_Edge | None, int]] = [(None, block) for block in children.get(None, ())]
    for parent, block in todo:  # Grows while it is read.
        edge = _Edge([block], ref_counts[block], parent)
        after = children.get(_content(cache, block).digest, [])
        while len(after) == 1 and ref_counts[after[0]] == edge.num_holders:
            edge.blocks.append(after[0])
            after = children.get(_content(cache, after[0]).digest, [])
        edge.weight = len(edge.blocks)
        edges.append(edge)
        if parent is not None:
            parent.children.append(edge)
        todo += [(edge, child) for child in after]
    return edges


def _token_ids(cache: PrefixCache, blocks: list[int]) -> Iterator[int]:
    for block in blocks:
        yield from _content(cache, block).token_ids


def _content(cache: PrefixCache, block: int) -> KnownBlock:
    content = cache.known[block]
    assert content is not None
    return content
