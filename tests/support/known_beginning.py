"""What a prefix cache knows of a chain of blocks."""

from __future__ import annotations

from itertools import takewhile

from octavo.engine.kv.prefix_cache import PrefixCache


def known_beginning(cache: PrefixCache, digests: list[bytes]) -> list[int]:
    """The blocks of the longest beginning of `digests` that it knows."""
    return [cache.blocks[digest] for digest in takewhile(cache.blocks.__contains__, digests)]
