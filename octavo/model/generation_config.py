"""How a model wants to be sampled: defaults for requests that do not say, from its generation_config.json.

Sources: transformers' GenerationConfig; llama.cpp's `general.sampling.*` keys of GGUF files.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from octavo.config import EngineConfig
from octavo.formats.gguf import GGUFFile
from octavo.formats.safetensors import SafetensorsDirectory, read_json
from octavo.sampling_params import SamplingParams

FILE_NAME = "generation_config.json"

_FIELDS = {
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "min_p": "min_p",
    "repetition_penalty": "repetition_penalty",
    "max_new_tokens": "max_tokens",
}
"""transformers' names, those that vLLM reads, and the fields of `SamplingParams` that they are."""

_OVERRIDE = "override_generation_config (--override-generation-config)"
_GGUF_FIELDS = {"temp": "temperature", "top_p": "top_p", "top_k": "top_k", "min_p": "min_p"}


def model_sampling(checkpoint: GGUFFile | SafetensorsDirectory) -> dict[str, Any]:
    """Fields of `SamplingParams` that a model's files give, not checked yet."""
    if isinstance(checkpoint, SafetensorsDirectory):
        return _renamed(checkpoint.generation_config, _FIELDS)
    prefix = "general.sampling."
    metadata = checkpoint.metadata
    own = {key.removeprefix(prefix): metadata[key] for key in metadata if key.startswith(prefix)}
    return _renamed(own, _GGUF_FIELDS)


def sampling_defaults(of_model: dict[str, Any], config: EngineConfig) -> dict[str, Any]:
    """Fields of `SamplingParams` for requests that do not set them.

    `of_model` are the model's own, `config.generation_config` says whether others take their place, and
    `config.override_generation_config` replaces single ones. Raises ValueError that names the file or the
    flag for a value that can not be.
    """
    source: object = f"model (--model) {config.model}"
    found = of_model
    if config.generation_config == "vllm":
        found = {}
    elif config.generation_config != "auto":
        source = Path(config.generation_config) / FILE_NAME
        found = _renamed(read_json(source), _FIELDS)
    _check(found, source, "; --generation-config vllm leaves it out")
    overrides = {}
    for name, value in (config.override_generation_config or {}).items():
        if name not in _FIELDS:
            known = ", ".join(_FIELDS)
            raise ValueError(f"{_OVERRIDE} takes {known}; got {name!r}")
        overrides[_FIELDS[name]] = value
    _check(overrides, _OVERRIDE)
    return found | overrides


def _renamed(found: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    return {names[key]: value for key, value in found.items() if key in names and value is not None}


def _check(defaults: dict[str, Any], source: object, advice: str = "") -> None:
    try:
        SamplingParams(**{"max_tokens": None, **defaults})
    except (ValueError, TypeError) as error:
        raise ValueError(f"{source}: {error}{advice}") from error
