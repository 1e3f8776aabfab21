"""Blocks that running sequences are about to compute, so that others wait for them and then share."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Sequence as Digests

from octavo.engine.sequence import Sequence, Status
from octavo.runtime.kv_cache import BLOCK_SIZE

_WORTH_WAITING = 64
"""Tokens: about what the fixed cost of a step is worth."""


class PendingBlocks:
    """The block that each digest will have, by whom.

    Of many requests that begin alike and come together, one computes the beginning. The others wait for
    it only while it runs and goes before them, so that whoever is first in order never waits. A wait costs
    little: mostly the one step in which the other computes its last chunk, since before that the budget of
    a step is its own.
    """

    __slots__ = ("_owners",)

    def __init__(self) -> None:
        self._owners: dict[bytes, Sequence] = {}

    def __bool__(self) -> bool:
        return bool(self._owners)

    @property
    def owners(self) -> Iterable[Sequence]:
        """Who computes each of the blocks that are pending."""
        return self._owners.values()

    def begin(self, sequence: Sequence) -> None:
        """`sequence` is going to compute the rest of its tokens."""
        sequence.has_pending_blocks = True
        for digest in self._promised(sequence):
            self._owners.setdefault(digest, sequence)

    def known(self, digest: bytes) -> None:
        """A block has been computed, by whomever."""
        self._owners.pop(digest, None)

    def end(self, sequence: Sequence) -> None:
        """`sequence` has computed all its tokens, or leaves without."""
        sequence.has_pending_blocks = False
        for digest in self._promised(sequence):
            if self._owners.get(digest) is sequence:
                del self._owners[digest]

    def must_wait(self, sequence: Sequence, digests: Digests[bytes], num_cached_blocks: int) -> bool:
        """Whether `sequence` does better to wait: blocks after its first `num_cached_blocks` are pending.

        That is so where they are at least 64 tokens, or half of what is left to compute, and always where
        the prompt is the same.
        """
        if self._goes_before(sequence.prompt_digest(), sequence):
            return True
        end = num_cached_blocks
        while end < len(digests) and self._goes_before(digests[end], sequence):
            end += 1
        shared = (end - num_cached_blocks) * BLOCK_SIZE
        left = len(sequence) - num_cached_blocks * BLOCK_SIZE
        return shared > 0 and shared >= min(_WORTH_WAITING, left // 2)

    def _goes_before(self, digest: bytes, sequence: Sequence) -> bool:
        owner = self._owners.get(digest)
        return owner is not None and owner.status is Status.RUNNING and owner.order < sequence.order

    @staticmethod
    def _promised(sequence: Sequence) -> list[bytes]:
        prompt = sequence.prompt_digest()
        return [prompt, *sequence.digests[sequence.num_known_blocks + 1 :]]
