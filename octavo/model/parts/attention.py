"""Grouped-query attention (Ainslie et al., 2023) over the paged KV cache."""

from __future__ import annotations

from dataclasses import dataclass

from octavo.model.bounds import MAX_HEAD_DIM, MAX_HEADS, check_size
from octavo.model.parts.norm import RMSNorm
from octavo.model.parts.place import Place
from octavo.runtime.kv_cache import PagedKV
from octavo.runtime.ops import Tracer
from octavo.runtime.program import View


@dataclass(frozen=True, slots=True, kw_only=True)
class Attention:
    """`num_heads` query heads, several of which may share one of `num_kv_heads` key and value heads.

    `rope` names the rotary embedding of queries and keys; None is none. A token sees `window` tokens, itself
    included; 0 is all. `qkv_bias` and `output_bias` say which linears have one. `qk_norm` is the norm of each
    query and key head before the rotation. Raises ValueError when the sizes do not fit together.
    """

    num_heads: int
    num_kv_heads: int
    head_dim: int
    rope: str | None
    window: int = 0
    qkv_bias: bool = False
    output_bias: bool = False
    qk_norm: RMSNorm | None = None

    def __post_init__(self) -> None:
        check_size("num_heads", self.num_heads, MAX_HEADS)
        check_size("num_kv_heads", self.num_kv_heads, self.num_heads)
        check_size("head_dim", self.head_dim, MAX_HEAD_DIM)
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"num_heads {self.num_heads} is not a multiple of num_kv_heads {self.num_kv_heads}"
            )
        if self.window < 0:
            raise ValueError(f"window must be 0 or more tokens, got {self.window}")

    @property
    def query_cols(self) -> int:
        """Columns of the queries of a token."""
        return self.num_heads * self.head_dim

    @property
    def kv_cols(self) -> int:
        """Columns of the keys, or of the values, of a token."""
        return self.num_kv_heads * self.head_dim

    def trace(self, ops: Tracer, place: Place, x: View) -> View:
        """The heads side by side, `[T, query_cols]`, before the output linear."""
        widths = {"attn.q": self.query_cols, "attn.k": self.kv_cols, "attn.v": self.kv_cols}
        qkv = place.linear(ops, x, widths, bias=self.qkv_bias)
        q = qkv.columns(0, self.query_cols)
        k = qkv.columns(self.query_cols, self.kv_cols)
        v = qkv.columns(self.query_cols + self.kv_cols, self.kv_cols)
        if self.qk_norm is not None:
            self.qk_norm.trace_heads(ops, f"{place.name}.attn.q_norm", q, self.head_dim)
            self.qk_norm.trace_heads(ops, f"{place.name}.attn.k_norm", k, self.head_dim)
        if self.rope is not None:
            # q and k lie side by side and rotate alike, head by head.
            both = qkv.columns(0, self.query_cols + self.kv_cols)
            ops.rope(both, f"rope.{self.rope}", self.head_dim, place.ropes[self.rope].dim)
        cache = PagedKV(
            num_kv_heads=self.num_kv_heads,
            key_dim=self.head_dim,
            value_dim=self.head_dim,
            window=self.window,
        )
        return ops.paged_attention(q, k, v, num_heads=self.num_heads, scale=self.head_dim**-0.5, cache=cache)

    def project(self, ops: Tracer, place: Place, heads: View, residual: View) -> View:
        """The output linear of what `trace` gave, plus `residual`."""
        return place.linear(
            ops, heads, {"attn.o": place.hidden_size}, bias=self.output_bias, residual=residual
        )
