"""From a model's name to what runs it: its path, its description, its weights."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from octavo.config import EngineConfig
from octavo.formats.checkpoint import open_checkpoint
from octavo.formats.fields import Fields
from octavo.formats.fingerprint import fingerprint
from octavo.formats.gguf import GGUFFile
from octavo.formats.on_load import ON_LOAD, rounded_on_load
from octavo.formats.quantised.directory import QuantisedDirectory
from octavo.formats.safetensors import SafetensorsDirectory
from octavo.formats.scaling import Scaling
from octavo.formats.tensor import Tensor
from octavo.model.families.registry import family_of
from octavo.model.generation_config import model_sampling
from octavo.model.spec import ModelSpec
from octavo.model.weights import ModelWeights, stored_weights

_GGUF_END_TOKENS = ("eos", "eot", "eom")
"""End of sequence, of turn and of message: each ends a completion, as in the generation_config of Llama 3."""


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What a model's files say of it short of the weights. A token of `eos_token_ids` ends a completion.

    `sampling` are the fields of `SamplingParams` that it wants for requests that do not set them.
    """

    spec: ModelSpec
    eos_token_ids: list[int]
    sampling: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model ready to be compiled; `weights` include rope tables of `max_model_len` positions.

    Models with the same `fingerprint` have the same weights, the rope tables aside; "" says nothing. All take
    about `num_bytes`.
    """

    spec: ModelSpec
    eos_token_ids: list[int]
    max_model_len: int
    weights: Mapping[str, Tensor]
    fingerprint: str = ""
    num_bytes: int = 0


def resolve_model(model: str) -> Path:
    """The GGUF file or Hugging Face directory that `model` names; the demo model, downloaded once, for "".

    Raises ValueError when there is no such path.
    """
    if not model:
        from octavo.model.demo import demo_model_path

        return demo_model_path()
    path = Path(model).expanduser()
    if not path.exists():
        raise ValueError(
            f"model (--model): {model!r} is not there; give a local GGUF file or Hugging Face directory"
        )
    return path


def read_model_info(path: Path) -> ModelInfo:
    """The description of the model at `path`, in some 30 ms and without its weights.

    Raises ValueError naming the file and what in it is missing, unsound, or not supported.
    """
    return describe(open_checkpoint(path))


def read_spec(path: Path) -> ModelSpec:
    """The `spec` of `read_model_info`."""
    return read_model_info(path).spec


Calibrate = Callable[[GGUFFile | SafetensorsDirectory, ModelSpec, EngineConfig], dict[str, Scaling]]
"""The scalings of AWQ for a checkpoint: `octavo.quantise.on_load.calibrated`."""


def load_model(config: EngineConfig, calibrate: Calibrate | None = None) -> LoadedModel:
    """Open the model that `config` names and map its weights.

    `calibrate` is needed for a quantization of "awq-like". It is handed in since it runs the model.

    Raises ValueError naming the file or the setting when the model cannot be run as asked.
    """
    checkpoint = open_checkpoint(resolve_model(config.model), config.quantization)
    info = describe(checkpoint)
    max_model_len = resolve_max_model_len(info.spec, config.max_model_len)
    stored = stored_weights(checkpoint, info.spec)
    if rounds_on_load(checkpoint, config.quantization):
        scalings = {}
        if config.quantization == "awq-like":
            if calibrate is None:
                raise ValueError("quantization (--quantization) awq-like needs a calibration")
            scalings = calibrate(checkpoint, info.spec, config)
        stored = rounded_on_load(stored, str(config.quantization), checkpoint.path, scalings)
    tables = {name: Tensor.from_array(table) for name, table in info.spec.tables(max_model_len).items()}
    weights = ModelWeights(stored, config.dtype, tables)
    settings = f"{config.dtype} {config.quantization} {config.tokenizer} {info.spec}"
    mark = hashlib.sha256(f"{fingerprint(checkpoint.files)} {settings}".encode()).hexdigest()
    return LoadedModel(info.spec, info.eos_token_ids, max_model_len, weights, mark, weights.num_bytes)


def rounds_on_load(checkpoint: GGUFFile | SafetensorsDirectory, quantization: str | None) -> bool:
    """Whether `quantization` asks for the weights of `checkpoint` to be rounded, not how they are stored."""
    return quantization in ON_LOAD and not isinstance(checkpoint, QuantisedDirectory)


def resolve_max_model_len(spec: ModelSpec, requested: int | None) -> int:
    """`requested`, or what the model allows. Raises ValueError when that is less than what is requested."""
    if requested is not None and requested > spec.max_position:
        raise ValueError(
            f"max_model_len (--max-model-len) is at most {spec.max_position} for this model, got {requested}"
        )
    return requested or spec.max_position


def describe(checkpoint: GGUFFile | SafetensorsDirectory) -> ModelInfo:
    """What an opened checkpoint says of its model; raises ValueError as `read_model_info`."""
    family = family_of(checkpoint)
    try:
        sampling = model_sampling(checkpoint)
        if isinstance(checkpoint, GGUFFile):
            assert family.from_gguf is not None
            spec, metadata = family.from_gguf(checkpoint), checkpoint.metadata
            return _info(
                spec, sampling, [metadata.get(f"tokenizer.ggml.{end}_token_id") for end in _GGUF_END_TOKENS]
            )
        spec, eos = (
            family.from_hf(Fields(checkpoint.config)),
            checkpoint.generation_config.get("eos_token_id"),
        )
        if eos is None:
            eos = checkpoint.config.get("eos_token_id")
        return _info(spec, sampling, eos if isinstance(eos, list) else [eos])
    except ValueError as error:
        message = str(error)
        raise ValueError(
            message if str(checkpoint.path) in message else f"{checkpoint.path}: {message}"
        ) from None


def _info(spec: ModelSpec, sampling: dict[str, Any], eos_token_ids: list[Any]) -> ModelInfo:
    present = [token for token in eos_token_ids if token is not None]
    for token in present:
        if type(token) is not int or not 0 <= token < spec.vocab_size:
            raise ValueError(f"eos_token_id must be a token below {spec.vocab_size}, got {token!r:.80}")
    return ModelInfo(spec, list(dict.fromkeys(present)), sampling)
