"""Open a model's checkpoint, whichever format it has."""

from __future__ import annotations

from collections.abc import KeysView
from pathlib import Path
from typing import Protocol

from octavo.formats.gguf import GGUFFile
from octavo.formats.safetensors import SafetensorsDirectory
from octavo.formats.tensor import Tensor


class Checkpoint(Protocol):
    """Named tensors on disk. `octavo.model.families` says what the names and the rest mean."""

    path: Path

    @property
    def tensors(self) -> KeysView[str]:
        """The tensors' names, as the format has them."""
        ...

    def tensor(self, name: str) -> Tensor:
        """The tensor `name`. Raises ValueError naming the file when there is none or its type is unknown."""
        ...


def open_checkpoint(path: Path) -> GGUFFile | SafetensorsDirectory:
    """A GGUF file, or a Hugging Face directory with config.json.

    Raises ValueError, of one line and naming `path`, when it is neither or not sound.
    """
    if not path.is_dir():
        return GGUFFile(path)
    if (path / "config.json").is_file():
        return SafetensorsDirectory(path)
    raise ValueError(
        f"{path}: the directory has no config.json; give a Hugging Face directory or a GGUF file"
    )
