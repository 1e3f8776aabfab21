"""Which method a Hugging Face checkpoint is quantised by: what it says, checked against what is asked for."""

from __future__ import annotations

from typing import Any

from octavo.formats.fields import Fields
from octavo.formats.inside import file_inside
from octavo.formats.on_load import ON_LOAD
from octavo.formats.quantised.awq import AWQ
from octavo.formats.quantised.bitsandbytes import BITSANDBYTES
from octavo.formats.quantised.compressed_tensors import COMPRESSED_TENSORS
from octavo.formats.quantised.directory import QuantisedDirectory
from octavo.formats.quantised.float8 import FP8
from octavo.formats.quantised.gptq import GPTQ
from octavo.formats.quantised.mxfp4 import MXFP4
from octavo.formats.quantised.torchao import TORCHAO
from octavo.formats.safetensors import SafetensorsDirectory, read_json

METHODS = {each.name: each for each in (AWQ, GPTQ, COMPRESSED_TENSORS, FP8, BITSANDBYTES, MXFP4, TORCHAO)}

_SAME_AS = {"fbgemm_fp8": "fp8"}
_OWN_FILES = {"quantize_config.json": "gptq", "quant_config.json": "awq"}
"""Where earlier versions of AutoGPTQ and AutoAWQ put what is now in config.json."""


def quantised(directory: SafetensorsDirectory, requested: str | None) -> SafetensorsDirectory:
    """`directory` as its quantization_config says, or as `requested` where it says nothing; else itself.

    It also stays as it is where `requested` says what weights of 16 or 32 bits are rounded to while they are
    loaded. "fp8" means that when the directory has no scales of FP8 weights. Raises ValueError when the two
    differ, and for a method or settings that octavo does not read.
    """
    stated, settings = _stated(directory)
    if stated is None and requested in ON_LOAD and not _has_scales(directory, requested):
        return directory
    if stated is not None and requested not in (None, stated):
        raise ValueError(
            f"quantization (--quantization) is {requested}, but {directory.path} is quantised by {stated}; "
            f"leave it out or give {stated}"
        )
    name = stated or requested
    if name is None:
        return directory
    if name not in METHODS:
        raise ValueError(
            f"{directory.path}: quantization_config.quant_method is {name!r:.80}; "
            f"octavo reads {', '.join(METHODS)}"
        )
    fields = Fields({"quantization_config": settings}).group("quantization_config")
    return QuantisedDirectory(directory.path, METHODS[name], fields)


def _has_scales(directory: SafetensorsDirectory, name: str) -> bool:
    return name in METHODS and any(each.endswith(METHODS[name].markers) for each in directory.tensors)


def _stated(directory: SafetensorsDirectory) -> tuple[str | None, dict[str, Any]]:
    """The method and the settings that the checkpoint gives itself."""
    settings = directory.config.get("quantization_config", directory.config.get("compression_config"))
    if settings is None:
        for file, name in _OWN_FILES.items():
            if (directory.path / file).is_file():
                return name, read_json(file_inside(directory.path, file))
        return None, {}
    if not isinstance(settings, dict):
        raise ValueError(f"{directory.path}: quantization_config must be an object, got {settings!r:.80}")
    method: Any = settings.get("quant_method", "compressed-tensors" if "config_groups" in settings else None)
    if not isinstance(method, str):
        raise ValueError(
            f"{directory.path}: quantization_config.quant_method must be a name, got {method!r:.80}"
        )
    return _SAME_AS.get(method, method), settings
