"""Names for blocks of tokens: a digest of a block's tokens and of all that comes before them."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from hashlib import blake2b, sha256
from types import MappingProxyType

from octavo.runtime.kv_cache import BLOCK_SIZE

HASH_ALGORITHMS = ("sha256", "blake2b")

_TOKEN_BYTES = array("i").itemsize
_BLOCK_BYTES = BLOCK_SIZE * _TOKEN_BYTES
_NO_KEYS: Mapping[int, bytes] = MappingProxyType({})


def token_bytes(token_ids: Sequence[int]) -> bytes:
    """Token ids as bytes, four each: what is hashed and compared."""
    return array("i", token_ids).tobytes()


class BlockHasher:
    """Chains 256-bit digests: a block's is made from its parent's and its own 16 tokens.

    A collision would hand one user's context to another, hence a cryptographic hash and not `hash()`.
    """

    __slots__ = ("_new", "algorithm")

    def __init__(self, algorithm: str = "sha256") -> None:
        """`algorithm` is one of HASH_ALGORITHMS; raises ValueError for another."""
        if algorithm not in HASH_ALGORITHMS:
            raise ValueError(f"hash algorithm must be one of {', '.join(HASH_ALGORITHMS)}, got {algorithm!r}")
        self.algorithm = algorithm
        self._new = sha256 if algorithm == "sha256" else _blake2b_256

    def root(self, *parts: str) -> bytes:
        """The parent of a first block. Sequences whose roots have other parts (a salt) share nothing."""
        encoded = [part.encode() for part in parts]
        # Lengths keep ("a", "bc") apart from ("ab", "c"), and this from the preimage of any block.
        lengths = ",".join(str(len(each)) for each in encoded)
        return self._new(b"octavo root " + lengths.encode() + b":" + b"".join(encoded)).digest()

    def chain(
        self, parent: bytes, token_ids: Sequence[int], extra_keys: Mapping[int, bytes] = _NO_KEYS
    ) -> list[bytes]:
        """The digest of each full block of `token_ids`, the first of which follows `parent`.

        `extra_keys[i]` is what block `i` of these depends on besides its tokens, such as the digest and the
        offset of an image whose placeholder tokens it holds. Later blocks inherit it through the chain.
        """
        data = token_bytes(token_ids)
        new, digests = self._new, []
        for start in range(0, len(data) - _BLOCK_BYTES + 1, _BLOCK_BYTES):
            parent = new(parent + data[start : start + _BLOCK_BYTES]).digest()
            if extra_keys and (key := extra_keys.get(start // _BLOCK_BYTES)):
                # Apart from every other preimage: those begin with a digest or with "octavo root".
                parent = new(b"octavo extra " + parent + key).digest()
            digests.append(parent)
        return digests

    def partial(self, parent: bytes, token_ids: Sequence[int]) -> bytes:
        """The digest of fewer than 16 tokens, or none, that follow `parent`."""
        return self._new(parent + token_bytes(token_ids)).digest()


def common_tokens(first: bytes, second: bytes) -> int:
    """How many tokens two `token_bytes` have in common at their beginnings."""
    shorter = min(len(first), len(second))
    for start in range(0, shorter, _TOKEN_BYTES):
        if first[start : start + _TOKEN_BYTES] != second[start : start + _TOKEN_BYTES]:
            return start // _TOKEN_BYTES
    return shorter // _TOKEN_BYTES


def _blake2b_256(data: bytes) -> blake2b:
    return blake2b(data, digest_size=32)
