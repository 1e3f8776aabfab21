"""What a decoder-only transformer is, as data: the one description that every family fills in."""

from __future__ import annotations

from dataclasses import dataclass

from octavo.model.rope import Rope

MAX_LAYERS = 1024
MAX_COLS = 1 << 20
MAX_HEADS = 1 << 12
MAX_HEAD_DIM = 1 << 10
MAX_VOCABULARY = 1 << 24
MAX_POSITIONS = 1 << 21


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderSpec:
    """A pre-norm decoder with RMSNorm, grouped-query attention, rotary positions and a SwiGLU MLP.

    `windows[i]` is layer `i`'s sliding window in tokens, 0 for full attention. `qkv_bias`, `output_bias` and
    `mlp_bias` say which linears have one; `qk_norm` is an RMSNorm of each query and key head before the
    rotation. Raises ValueError naming the field when the sizes do not fit together.
    """

    family: str
    num_layers: int
    hidden_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int
    max_position: int
    norm_eps: float
    rope: Rope
    windows: tuple[int, ...]
    qkv_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    tie_embeddings: bool = False

    def __post_init__(self) -> None:
        bounds = {
            "num_layers": MAX_LAYERS,
            "hidden_size": MAX_COLS,
            "num_heads": MAX_HEADS,
            "num_kv_heads": self.num_heads,
            "head_dim": MAX_HEAD_DIM,
            "intermediate_size": MAX_COLS,
            "vocab_size": MAX_VOCABULARY,
            "max_position": MAX_POSITIONS,
        }
        for name, bound in bounds.items():
            if not 1 <= getattr(self, name) <= bound:
                raise ValueError(f"{name} must be from 1 to {bound}, got {getattr(self, name)}")
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"num_heads {self.num_heads} is not a multiple of num_kv_heads {self.num_kv_heads}"
            )
        if self.rope.dim > self.head_dim:
            raise ValueError(f"rotary dimension {self.rope.dim} is larger than head_dim {self.head_dim}")
        if len(self.windows) != self.num_layers or min(self.windows) < 0:
            raise ValueError(f"{len(self.windows)} attention windows for {self.num_layers} layers")

    @property
    def query_cols(self) -> int:
        """Columns of the queries of a token."""
        return self.num_heads * self.head_dim

    @property
    def kv_cols(self) -> int:
        """Columns of the keys, or of the values, of a token."""
        return self.num_kv_heads * self.head_dim
