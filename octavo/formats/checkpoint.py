"""Open a model's checkpoint, whichever format it has."""

from __future__ import annotations

from collections.abc import KeysView
from pathlib import Path
from typing import Protocol

from octavo.formats.gguf import GGUFFile
from octavo.formats.on_load import ON_LOAD
from octavo.formats.safetensors import SafetensorsDirectory
from octavo.formats.tensor import Tensor


class Checkpoint(Protocol):
    """Named tensors on disk. `octavo.model.families` says what the names and the rest mean."""

    path: Path

    @property
    def tensors(self) -> KeysView[str]:
        """The tensors' names, as the format has them."""
        ...

    @property
    def files(self) -> list[Path]:
        """The files that say what the tensors are."""
        ...

    def tensor(self, name: str) -> Tensor:
        """The tensor `name`. Raises ValueError naming the file when there is none or its type is unknown."""
        ...


def open_checkpoint(path: Path, quantization: str | None = None) -> GGUFFile | SafetensorsDirectory:
    """A GGUF file, or a Hugging Face directory with config.json, quantised or not.

    `quantization` is checked against what the checkpoint says of itself, and believed where it says nothing;
    one of `octavo.formats.on_load.ON_LOAD` leaves a checkpoint as it is that is not quantised.
    Raises ValueError, of one line and naming `path`, when it is neither or not sound.
    """
    if not path.is_dir():
        if quantization not in (None, "gguf", *ON_LOAD):
            raise ValueError(
                f"quantization (--quantization) is {quantization}, but {path} is a GGUF file, whose tensors "
                "say how they are quantised; leave it out"
            )
        return GGUFFile(path)
    if not (path / "config.json").is_file():
        raise ValueError(
            f"{path}: the directory has no config.json; give a Hugging Face directory or a GGUF file"
        )
    if quantization == "gguf":
        raise ValueError(f"quantization (--quantization) is gguf, but {path} is a Hugging Face directory")
    from octavo.formats.quantised.choose import quantised

    return quantised(SafetensorsDirectory(path), quantization)
