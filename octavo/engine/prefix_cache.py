"""The prefix cache: which full block of tokens each KV block holds.

A block's content depends on every token before it, so its name is a digest chained from its parent's. It
knows content: not requests, and of memory only what the `BlockPool` says.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

from octavo.engine.block_pool import BlockPool
from octavo.runtime.backend import BLOCK_SIZE

_BLOCK_BYTES = BLOCK_SIZE * array("i").itemsize


def root_digest(cache_salt: str) -> bytes:
    """The parent of a first block. Requests with different salts share nothing."""
    return blake2b(cache_salt.encode(), digest_size=32, person=b"octavo.root").digest()


def chain_digests(parent: bytes, token_ids: Sequence[int]) -> list[bytes]:
    """The digest of each full block of `token_ids`: 256 bits over the parent's digest and 16 tokens.

    A collision would hand one user's context to another, hence a cryptographic hash and not `hash()`.
    """
    data = array("i", token_ids).tobytes()
    digests = []
    for start in range(0, len(data) - _BLOCK_BYTES + 1, _BLOCK_BYTES):
        parent = blake2b(parent + data[start : start + _BLOCK_BYTES], digest_size=32).digest()
        digests.append(parent)
    return digests


@dataclass(slots=True, eq=False)
class KnownBlock:
    """The content of a block: its digest, that of the block before it, None for a first one, and its tokens.

    The cache itself needs the digest alone; the rest is for whoever looks at the tree of prefixes.
    """

    digest: bytes
    parent: bytes | None
    token_ids: array[int]


class PrefixCache:
    """Digest of a block's tokens and all before them -> the KV block that holds them.

    A block stays known after its last sequence left, until the pool hands it out again. Free the blocks
    of a sequence last to first: children are then reused before their parents, without which they could
    not be found.

    `queries` and `hits` count tokens, looked for and found; the caller adds to them, since only it knows
    whether it took what `match` offered.
    """

    __slots__ = ("_blocks", "_pool", "hits", "known", "queries")

    def __init__(self, pool: BlockPool) -> None:
        self._pool = pool
        self._blocks: dict[bytes, int] = {}
        self.known: list[KnownBlock | None] = [None] * pool.num_blocks
        """What each block of the pool holds; None where nobody could find it."""
        self.queries = 0
        self.hits = 0
        pool.on_reuse(self._forget)

    def __len__(self) -> int:
        """Number of blocks known."""
        return len(self._blocks)

    def match(self, digests: Sequence[bytes]) -> list[int]:
        """The blocks that hold the longest known prefix of the chain `digests`; takes no reference."""
        blocks = []
        for digest in digests:
            block = self._blocks.get(digest)
            if block is None:
                break
            blocks.append(block)
        return blocks

    def insert(self, content: KnownBlock, block: int) -> None:
        """Make known that `block`, which the caller allocated and has computed, holds `content`.

        A digest that is known already keeps its block: of two sequences that computed the same tokens
        side by side, the first one's is shared from then on.
        """
        if content.digest not in self._blocks:
            self._blocks[content.digest] = block
            self.known[block] = content

    def reset(self) -> None:
        """Forget every block that nobody holds."""
        for block in list(self._blocks.values()):
            if self._pool.ref_counts[block] == 0:
                self._forget(block)

    def _forget(self, block: int) -> None:
        content = self.known[block]
        if content is not None:
            del self._blocks[content.digest]
            self.known[block] = None
