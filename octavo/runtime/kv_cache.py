"""The KV cache of a Program: what each of its attention layers keeps of a token, and what a block holds."""

from __future__ import annotations

from dataclasses import dataclass

from octavo.runtime.kv_items import vector_bytes

BLOCK_SIZE = 16
"""Tokens in a KV block: an octavo sheet folds into 16 pages."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PagedKV:
    """What one attention layer keeps: a key and a value of each token for each KV head.

    A token sees the last `window` tokens, its own included; 0 is all.
    """

    num_kv_heads: int
    key_dim: int
    value_dim: int
    window: int = 0

    def token_bytes(self, dtype: str) -> int:
        """Bytes that a token takes in a cache of `dtype`."""
        return self.num_kv_heads * (vector_bytes(dtype, self.key_dim) + vector_bytes(dtype, self.value_dim))


@dataclass(frozen=True, slots=True)
class KVCacheSpec:
    """A KV cache for `layers`, the `Program.cache_layers` of a model: what a block costs follows from it.

    The layers of a KV group share a block table, and a block holds 16 tokens of one group. All blocks are
    alike, with room for the largest group, so that any group can have any block. No `groups` are one of all
    layers.
    """

    layers: tuple[PagedKV, ...]
    dtype: str  # one of `octavo.runtime.kv_items.KV_CACHE_DTYPES`
    groups: tuple[tuple[int, ...], ...] = ()

    @property
    def layers_by_group(self) -> tuple[tuple[int, ...], ...]:
        """The layers of each group, every layer in one."""
        return self.groups or (tuple(range(len(self.layers))),)

    @property
    def block_bytes(self) -> int:
        """Bytes of a block of 16 tokens, with room for the largest group."""
        return BLOCK_SIZE * max(self._token_bytes(group) for group in self.layers_by_group)

    def _token_bytes(self, group: tuple[int, ...]) -> int:
        return sum(self.layers[layer].token_bytes(self.dtype) for layer in group)
