"""What a model is made of: its sizes, how its weights are stored and run, and whether it fits here.

Nothing is dequantised or packed for it; only the files' descriptions are read, and zero points where a form
depends on them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from math import prod

import msgspec

from octavo.config import EngineConfig
from octavo.engine.build import activation_bytes, kv_cache_spec, scheduler_settings, step_limits
from octavo.engine.kv.block_pool import blocks_for
from octavo.engine.kv.kv_groups import kv_groups, most_blocks, room_in_tokens
from octavo.engine.kv.memory import num_kv_blocks
from octavo.formats.arranged import AnyWeight
from octavo.formats.checkpoint import open_checkpoint
from octavo.formats.normalise import packed_bytes, runs_as
from octavo.formats.on_load import rounded_on_load
from octavo.formats.tensor import Encoding
from octavo.machine.memory import Memory
from octavo.model.decoder import trace
from octavo.model.load import describe, resolve_max_model_len, resolve_model, rounds_on_load
from octavo.model.spec import by_layer
from octavo.model.weights import stored_weights
from octavo.runtime.kv_cache import BLOCK_SIZE


class Form(msgspec.Struct, frozen=True, kw_only=True):
    """How many of a layer's matrices are stored one way, and what they run as."""

    stored: str
    runs_as: str
    matrices: int
    parameters: int
    stored_bytes: int


class Layer(msgspec.Struct, frozen=True, kw_only=True):
    """A decoder layer, or "embed" or "lm_head"."""

    name: str
    forms: list[Form]


class Inspection(msgspec.Struct, frozen=True, kw_only=True):
    """A model as `octavo inspect` reports it; sizes in bytes.

    What differs by layer is a list, an entry for each layer that has it.
    """

    model: str
    family: str
    num_layers: int
    hidden_size: int
    num_heads: int | list[int]
    num_kv_heads: int | list[int]
    head_dim: int | list[int]
    intermediate_size: int | list[int]
    vocab_size: int
    tie_embeddings: bool
    parameters: int
    stored_bytes: int
    packed_bytes: int
    activation_bytes: int
    kv_bytes_per_token: int
    max_model_len: int
    memory_total: int
    memory_available: int
    kv_blocks: int
    kv_tokens: int
    fits: bool
    why_not: str
    layers: list[Layer]

    def lines(self) -> Iterator[str]:
        """For a terminal."""
        yield f"{'model':<14}{self.model}"
        yield (
            f"{'architecture':<14}{self.family}, {self.num_layers} layers of {self.hidden_size}, "
            f"{_text(self.num_heads)} heads of {_text(self.head_dim)} "
            f"on {_text(self.num_kv_heads)} KV heads, MLP {_text(self.intermediate_size)}, "
            f"{self.vocab_size:,} tokens{', tied embeddings' if self.tie_embeddings else ''}"
        )
        yield f"{'parameters':<14}{self.parameters:,}"
        for names, forms in _runs(self.layers):
            for i, form in enumerate(forms):
                count = f"{form.matrices} x " if form.matrices > 1 else ""
                runs = f", runs as {form.runs_as}" if form.runs_as != form.stored else ""
                yield f"{'' if i else names:<14}{count}{form.stored}{runs}"
        yield f"{'stored':<14}{_mebibytes(self.stored_bytes)}"
        activations = _mebibytes(self.activation_bytes)
        yield f"{'packed':<14}{_mebibytes(self.packed_bytes)}, and {activations} of activations"
        yield (
            f"{'KV cache':<14}{self.kv_bytes_per_token:,} bytes a token, "
            f"{_mebibytes(self.kv_bytes_per_token * self.max_model_len)} for {self.max_model_len:,} tokens"
        )
        fits = f"yes: room for {self.kv_tokens:,} tokens" if self.fits else f"no: {self.why_not}"
        yield f"{'fits here':<14}{fits} ({_mebibytes(self.memory_available)} available)"


def inspect_model(config: EngineConfig, memory: Memory) -> Inspection:
    """The model of `config` as an engine with these settings would run it in `memory`.

    Raises ValueError, naming the file or the flag, for a model that can not be run at all.
    """
    path = resolve_model(config.model)
    checkpoint = open_checkpoint(path, config.quantization)
    spec = describe(checkpoint).spec
    max_model_len = resolve_max_model_len(spec, config.max_model_len)
    stored = weights = stored_weights(checkpoint, spec)
    if rounds_on_load(checkpoint, config.quantization):
        weights = rounded_on_load(stored, str(config.quantization), path, {})
    program = trace(spec)
    groups = kv_groups(program.cache_layers, max_model_len)
    kv_cache = kv_cache_spec(config, program.cache_layers, groups)
    limits = step_limits(scheduler_settings(config, max_model_len), max_model_len, spec.vocab_size)

    linears = [name for each in program.instructions if each.op == "linear" for name in each.weights]
    packed = sum(_packed_bytes(_stored(weights, name), config.dtype) for name in linears)
    activations = activation_bytes(program, limits)
    blocks, why_not = 0, ""
    try:
        blocks = num_kv_blocks(
            config,
            block_bytes=kv_cache.block_bytes,
            reserved_bytes=packed + activations,
            max_model_len=max_model_len,
            memory=memory,
            groups=groups,
            chunk=limits.max_tokens,
        )
    except ValueError as error:
        why_not = str(error)
    return Inspection(
        model=str(path),
        family=spec.family,
        num_layers=spec.num_layers,
        hidden_size=spec.hidden_size,
        num_heads=by_layer([each.num_heads for each in spec.attentions]),
        num_kv_heads=by_layer([each.num_kv_heads for each in spec.attentions]),
        head_dim=by_layer([each.head_dim for each in spec.attentions]),
        intermediate_size=by_layer([each.mlp.width for each in spec.layers if each.mlp is not None]),
        vocab_size=spec.vocab_size,
        tie_embeddings=spec.head.tied,
        parameters=sum(prod(each.shape) for each in stored.values()),
        stored_bytes=sum(each.stored_bytes for each in stored.values()),
        packed_bytes=packed,
        activation_bytes=activations,
        kv_bytes_per_token=kv_cache.block_bytes
        * most_blocks(groups, max_model_len, limits.max_tokens)
        // (BLOCK_SIZE * blocks_for(max_model_len)),
        max_model_len=max_model_len,
        memory_total=memory.total,
        memory_available=memory.available,
        kv_blocks=blocks,
        kv_tokens=room_in_tokens(groups, blocks, max_model_len, limits.max_tokens),
        fits=not why_not,
        why_not=why_not,
        layers=_layers(weights, config.dtype),
    )


def _text(values: int | list[int]) -> str:
    """8, or 8-16 where layers differ."""
    return str(values) if isinstance(values, int) else f"{min(values)}-{max(values)}"


def _stored(weights: dict[str, AnyWeight], name: str) -> AnyWeight:
    """The weight `name`; tied, lm_head is the embedding."""
    return weights["embed.weight"] if name == "lm_head.weight" and name not in weights else weights[name]


def _encoding(weight: AnyWeight, dtype: str) -> Encoding:
    return Encoding["F32"] if dtype == "float32" else runs_as(weight)


def _packed_bytes(weight: AnyWeight, dtype: str) -> int:
    """What the native backend's copy of a matrix takes; biases, which are vectors, are not packed."""
    if len(weight.shape) == 1:
        return 0
    return packed_bytes(_encoding(weight, dtype), prod(weight.shape[:-1]), weight.shape[-1])


def _layers(weights: dict[str, AnyWeight], dtype: str) -> list[Layer]:
    """The matrices by layer; vectors are float32 and few."""
    by_layer: dict[str, list[AnyWeight]] = {}
    for name, weight in weights.items():
        if len(weight.shape) > 1:
            parts = name.split(".")
            layer = f"layer {parts[1]}" if parts[0] == "layers" else parts[0]
            by_layer.setdefault(layer, []).append(weight)
    return [Layer(name=name, forms=_forms(matrices, dtype)) for name, matrices in by_layer.items()]


def _forms(matrices: list[AnyWeight], dtype: str) -> list[Form]:
    count: Counter[tuple[str, str]] = Counter()
    parameters: Counter[tuple[str, str]] = Counter()
    stored_bytes: Counter[tuple[str, str]] = Counter()
    for each in matrices:
        key = each.format, str(_encoding(each, dtype).value)
        count[key] += 1
        parameters[key] += prod(each.shape)
        stored_bytes[key] += each.stored_bytes
    return [
        Form(stored=s, runs_as=r, matrices=n, parameters=parameters[s, r], stored_bytes=stored_bytes[s, r])
        for (s, r), n in count.items()
    ]


def _runs(layers: list[Layer]) -> Iterator[tuple[str, list[Form]]]:
    """Neighbouring layers of the same forms as one: "layers 0-29"."""
    start = 0
    for end in range(1, len(layers) + 1):
        if end < len(layers) and layers[end].forms == layers[start].forms and "layer " in layers[start].name:
            continue
        name = layers[start].name
        if end - start > 1:
            name = f"layers {name.removeprefix('layer ')}-{layers[end - 1].name.removeprefix('layer ')}"
        yield name, layers[start].forms
        start = end


def _mebibytes(count: int) -> str:
    return f"{count / (1 << 20):,.1f} MiB"
