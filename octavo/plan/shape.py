"""The numbers of a model that memory and speed follow from, counted in its Program."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path

from octavo.engine.kv.kv_groups import KVGroup, kv_groups
from octavo.model.decoder import trace
from octavo.model.load import read_spec
from octavo.model.rope import Rope
from octavo.model.spec import ModelSpec
from octavo.model.uniform import uniform_decoder
from octavo.runtime.kv_cache import BLOCK_SIZE
from octavo.runtime.ops import OPS
from octavo.runtime.program import Program


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """A model to plan for: its spec, and what is not in it.

    `experts` are how many a layer has and how many of them a token takes, each the MLP of the spec.
    `stored_bytes` are those of the weights as their files have them; None for a model that is not here.
    """

    name: str
    spec: ModelSpec
    experts: tuple[int, int] = (1, 1)
    stored_bytes: int | None = None

    @cached_property
    def program(self) -> Program:
        """What a step runs: everything below is counted in it."""
        return trace(self.spec)

    @cached_property
    def _weights(self) -> tuple[int, int, int]:
        """Values of the embedding, of the MLPs' matrices (one expert each), and of all other matrices."""
        sizes = {name: prod(shape) for name, shape in self.program.weight_shapes.items() if len(shape) > 1}
        embedding = sizes.pop("embed.weight")
        mlps = sum(size for name, size in sizes.items() if ".mlp." in name)
        return embedding, mlps, sum(sizes.values()) - mlps

    @property
    def linear_parameters(self) -> int:
        """Weights that a token is multiplied with: all but the embedding and the experts it does not take."""
        _, mlps, others = self._weights
        return others + self.experts[1] * mlps

    @property
    def parameters(self) -> int:
        """All weights; norms, biases and routers, which are few, are left out."""
        embedding, mlps, others = self._weights
        return others + self.experts[0] * mlps + (0 if self.spec.head.tied else embedding)

    @cached_property
    def attention_macs(self) -> int:
        """Multiply-adds of a token's attention, in all layers, for each position that it sees."""
        return sum(OPS[each.op].work(each).pair for each in self.program.instructions)

    @property
    def widest_mlp(self) -> int:
        """Columns of the widest MLP."""
        return max((each.mlp.width for each in self.spec.layers if each.mlp is not None), default=0)

    def share_read(self, num_tokens: int) -> float:
        """The share of the weights that a step of `num_tokens` reads, all experts being alike likely."""
        count, taken = self.experts
        unread = (1 - taken / count) ** num_tokens
        return 1 - unread * count * self._weights[1] / self.parameters

    def kv_groups(self, max_model_len: int) -> tuple[KVGroup, ...]:
        """Which layers share a block table, as in the engine."""
        return kv_groups(self.program.cache_layers, max_model_len)

    def kv_block_bytes(self, groups: tuple[KVGroup, ...], bytes_per_value: float = 2) -> float:
        """A block of the pool: keys and values of 16 tokens in the layers of the largest group."""
        return max(self._kv_values(group.layers) for group in groups) * BLOCK_SIZE * bytes_per_value

    def weight_bytes(self, bytes_per_weight: float) -> int:
        """What the weights take: as stored where they are, else at `bytes_per_weight`."""
        if self.stored_bytes is not None:
            return self.stored_bytes
        return round(self.parameters * bytes_per_weight)

    def kv_cache_bytes(self, num_tokens: int, batch: int = 1, bytes_per_value: float = 2) -> float:
        """The keys and values of `batch` sequences of `num_tokens` each: 2 x H_kv x d_h of every layer.

        What layers with a window need not keep is in it.
        """
        return self._kv_values_of_all * num_tokens * batch * bytes_per_value

    @cached_property
    def _kv_values_of_all(self) -> int:
        return self._kv_values(range(len(self.program.cache_layers)))

    def _kv_values(self, layers: Iterable[int]) -> int:
        """Keys and values of a token in these cache layers."""
        own = (self.program.cache_layers[layer] for layer in layers)
        return sum(each.num_kv_heads * (each.key_dim + each.value_dim) for each in own)


def shape_of(model: str) -> ModelShape:
    """The shape of a GGUF file, a Hugging Face directory, or a model that is known by name.

    Raises ValueError when it is none of these, or a file that can not be read.
    """
    path = Path(model).expanduser()
    if model and path.exists():
        return ModelShape(name=model, spec=read_spec(path), stored_bytes=_stored_bytes(path))
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
    """Sizes alone: nothing that a plan counts depends on the rest of such a model.

    `window` is that of all layers but each `full_every`-th; `experts`: how many, and a token's.
    """
    layers, hidden, heads, kv_heads, head_dim, intermediate, vocab, positions = sizes
    spec = uniform_decoder(
        family=name,
        num_layers=layers,
        hidden_size=hidden,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        intermediate_size=intermediate,
        vocab_size=vocab,
        max_position=positions,
        norm_eps=1e-6,
        rope=Rope(dim=head_dim, theta=10_000.0),
        tie_embeddings=tied,
    )
    windows = tuple(window if layer % full_every < full_every - 1 else 0 for layer in range(layers))
    return ModelShape(name=name, spec=spec.with_windows(windows), experts=experts)


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
