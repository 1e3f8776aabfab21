"""The sizes of a model that memory and speed follow from."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path

from octavo.engine.kv.kv_groups import KVGroup, kv_groups
from octavo.model.load import read_spec
from octavo.model.spec import DecoderSpec
from octavo.runtime.kv_cache import BLOCK_SIZE, PagedKV


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """A decoder with grouped-query attention and gated MLPs, of whose experts each token takes a few.

    `windows[i]` is how many tokens layer `i` sees, 0 for all; empty where all layers see all.
    """

    name: str
    num_layers: int
    hidden_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int
    max_position: int
    tie_embeddings: bool = False
    windows: tuple[int, ...] = ()
    num_experts: int = 1
    experts_per_token: int = 1
    stored_bytes: int | None = None
    """Bytes of the weights as their files have them; None for a model that is not here."""

    @property
    def linear_parameters(self) -> int:
        """Weights that a token is multiplied with: all but the embedding and the experts it does not take."""
        attention = self.hidden_size * self.head_dim * (2 * self.num_heads + 2 * self.num_kv_heads)
        mlp = self.experts_per_token * self._expert
        return self.num_layers * (attention + mlp) + self.hidden_size * self.vocab_size

    @property
    def parameters(self) -> int:
        """All weights; norms, biases and routers, which are few, are left out."""
        embedding = 0 if self.tie_embeddings else self.hidden_size * self.vocab_size
        others = self.num_layers * (self.num_experts - self.experts_per_token) * self._expert
        return self.linear_parameters + embedding + others

    @property
    def _expert(self) -> int:
        return 3 * self.hidden_size * self.intermediate_size

    def share_read(self, num_tokens: int) -> float:
        """The share of the weights that a step of `num_tokens` reads, all experts being alike likely."""
        unread = (1 - self.experts_per_token / self.num_experts) ** num_tokens
        return 1 - unread * self.num_layers * self.num_experts * self._expert / self.parameters

    def kv_groups(self, max_model_len: int) -> tuple[KVGroup, ...]:
        """Which layers share a block table, as in the engine."""
        layers = [
            PagedKV(
                num_kv_heads=self.num_kv_heads, key_dim=self.head_dim, value_dim=self.head_dim, window=window
            )
            for window in self.windows or (0,) * self.num_layers
        ]
        return kv_groups(layers, max_model_len)

    def kv_block_bytes(self, groups: tuple[KVGroup, ...], bytes_per_value: float = 2) -> float:
        """A block of the pool: keys and values of 16 tokens in as many layers as the largest group has."""
        layers = max(len(group.layers) for group in groups)
        return 2 * layers * self.num_kv_heads * self.head_dim * BLOCK_SIZE * bytes_per_value

    def weight_bytes(self, bytes_per_weight: float) -> int:
        """What the weights take: as stored where they are, else at `bytes_per_weight`."""
        if self.stored_bytes is not None:
            return self.stored_bytes
        return round(self.parameters * bytes_per_weight)

    def kv_cache_bytes(self, num_tokens: int, batch: int = 1, bytes_per_value: float = 2) -> float:
        """2 x L x H_kv x d_h x S x B x bytes: keys and values of `batch` sequences of `num_tokens` each.

        Of every layer: what layers with a window need not keep is in it.
        """
        values = 2 * self.num_layers * self.num_kv_heads * self.head_dim
        return values * num_tokens * batch * bytes_per_value


def shape_of(model: str) -> ModelShape:
    """The shape of a GGUF file, a Hugging Face directory, or a model that is known by name.

    Raises ValueError when it is none of these, or a file that can not be read.
    """
    path = Path(model).expanduser()
    if model and path.exists():
        return _from_spec(model, read_spec(path), _stored_bytes(path))
    name = model.rsplit("/", 1)[-1].lower()
    for suffix in ("-instruct", "-chat", "-it"):
        name = name.removesuffix(suffix)
    if name in KNOWN:
        return KNOWN[name]
    near = difflib.get_close_matches(name, KNOWN, n=3)
    known = ", ".join(near or KNOWN)
    raise ValueError(
        f"model (--model): {model!r} is neither a path nor a name that is known, such as {known}"
    )


def _from_spec(name: str, spec: DecoderSpec, stored_bytes: int) -> ModelShape:
    return ModelShape(
        name=name,
        num_layers=spec.num_layers,
        hidden_size=spec.hidden_size,
        num_heads=spec.num_heads,
        num_kv_heads=spec.num_kv_heads,
        head_dim=spec.head_dim,
        intermediate_size=spec.intermediate_size,
        vocab_size=spec.vocab_size,
        max_position=spec.max_position,
        tie_embeddings=spec.tie_embeddings,
        windows=spec.windows,
        stored_bytes=stored_bytes,
    )


def _stored_bytes(path: Path) -> int:
    files = [path] if path.is_file() else path.glob("*.safetensors")
    return sum(file.stat().st_size for file in files)


def _known(
    name: str,
    sizes: tuple[int, ...],
    *,
    tied: bool = False,
    window: int = 0,
    full_every: int = 1,
    experts: tuple[int, int] = (1, 1),
) -> ModelShape:
    """`window` is that of all layers but each `full_every`-th; `experts`: how many, and a token's."""
    layers, hidden, heads, kv_heads, head_dim, intermediate, vocab, positions = sizes
    return ModelShape(
        name=name,
        num_layers=layers,
        hidden_size=hidden,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        intermediate_size=intermediate,
        vocab_size=vocab,
        max_position=positions,
        tie_embeddings=tied,
        windows=tuple(window if layer % full_every < full_every - 1 else 0 for layer in range(layers)),
        num_experts=experts[0],
        experts_per_token=experts[1],
    )


_LLAMA3_VOCAB = 128_256
KNOWN = {
    shape.name.lower(): shape
    for shape in (
        _known("Llama-3.2-1B", (16, 2048, 32, 8, 64, 8192, _LLAMA3_VOCAB, 131_072), tied=True),
        _known("Llama-3.2-3B", (28, 3072, 24, 8, 128, 8192, _LLAMA3_VOCAB, 131_072), tied=True),
        _known("Llama-3.1-8B", (32, 4096, 32, 8, 128, 14_336, _LLAMA3_VOCAB, 131_072)),
        _known("Llama-3.1-70B", (80, 8192, 64, 8, 128, 28_672, _LLAMA3_VOCAB, 131_072)),
        _known("Llama-3.3-70B", (80, 8192, 64, 8, 128, 28_672, _LLAMA3_VOCAB, 131_072)),
        _known("Llama-2-7B", (32, 4096, 32, 32, 128, 11_008, 32_000, 4096)),
        _known("Llama-2-13B", (40, 5120, 40, 40, 128, 13_824, 32_000, 4096)),
        _known("Llama-2-70B", (80, 8192, 64, 8, 128, 28_672, 32_000, 4096)),
        _known("Mistral-7B-v0.3", (32, 4096, 32, 8, 128, 14_336, 32_768, 32_768)),
        _known("Qwen2.5-0.5B", (24, 896, 14, 2, 64, 4864, 151_936, 32_768), tied=True),
        _known("Qwen2.5-7B", (28, 3584, 28, 4, 128, 18_944, 152_064, 32_768)),
        _known("Qwen2.5-32B", (64, 5120, 40, 8, 128, 27_648, 152_064, 32_768)),
        _known("Qwen2.5-72B", (80, 8192, 64, 8, 128, 29_568, 152_064, 32_768)),
        _known("Qwen3-8B", (36, 4096, 32, 8, 128, 12_288, 151_936, 40_960)),
        _known("Qwen3-32B", (64, 5120, 64, 8, 128, 25_600, 151_936, 40_960)),
        _known(
            "Gemma-2-9B", (42, 3584, 16, 8, 256, 14_336, 256_000, 8192), tied=True, window=4096, full_every=2
        ),
        _known(
            "Gemma-3-1B", (26, 1152, 4, 1, 256, 6912, 262_144, 32_768), tied=True, window=512, full_every=6
        ),
        _known(
            "Gemma-3-4B",
            (34, 2560, 8, 4, 256, 10_240, 262_208, 131_072),
            tied=True,
            window=1024,
            full_every=6,
        ),
        _known(
            "Gemma-3-12B",
            (48, 3840, 16, 8, 256, 15_360, 262_208, 131_072),
            tied=True,
            window=1024,
            full_every=6,
        ),
        _known(
            "Gemma-3-27B",
            (62, 5376, 32, 16, 128, 21_504, 262_208, 131_072),
            tied=True,
            window=1024,
            full_every=6,
        ),
        _known(
            "gpt-oss-20b",
            (24, 2880, 64, 8, 64, 2880, 201_088, 131_072),
            window=128,
            full_every=2,
            experts=(32, 4),
        ),
        _known(
            "gpt-oss-120b",
            (36, 2880, 64, 8, 64, 2880, 201_088, 131_072),
            window=128,
            full_every=2,
            experts=(128, 4),
        ),
        _known("SmolLM2-135M", (30, 576, 9, 3, 64, 1536, 49_152, 8192), tied=True),
    )
}
"""Models whose configurations are public, by name in lower case: to plan for one that is not here yet."""
