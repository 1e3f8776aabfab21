"""What a quantisation method of Hugging Face checkpoints is, and the parts of a weight that it reads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from octavo.formats.fields import Fields
from octavo.formats.raw_array import RawArray
from octavo.formats.weight import QuantisedWeight


@dataclass(frozen=True, slots=True)
class Method:
    """How one method stores a weight: several tensors, named after the module that they belong to.

    A module is quantised when it has a tensor whose name ends in one of `markers`. `parts` are the ends of
    the other names in such a module. `unused` are ends of names that are not needed, because octavo scales
    activations and the KV cache itself. What the weight is called is the module's name and `weight_suffix`.
    `check` raises ValueError for settings (quantization_config) that are not read; `read` makes the weight of
    a module.
    """

    name: str
    markers: tuple[str, ...]
    parts: tuple[str, ...]
    check: Callable[[Fields], None]
    read: Callable[[Parts, Fields], QuantisedWeight]
    unused: tuple[str, ...] = ()
    weight_suffix: str = ".weight"


@dataclass(frozen=True, slots=True)
class Parts:
    """The tensors of one quantised module, by the ends of their names.

    `described` is what the file's metadata say of the weight, "" for nothing.
    """

    path: Path
    module: str
    arrays: dict[str, RawArray]
    described: str = ""

    def __contains__(self, suffix: str) -> bool:
        return suffix in self.arrays

    def __getitem__(self, suffix: str) -> RawArray:
        """A part that has to be there."""
        if suffix not in self.arrays:
            raise ValueError(f"{self.path}: tensor {self.module + suffix!r} is missing")
        return self.arrays[suffix]

    def of(self, suffix: str, dtypes: tuple[str, ...], shape: tuple[int | None, ...]) -> RawArray:
        """A part that has to be there, of one of `dtypes` and of `shape`, where None is any size but 0."""
        array = self[suffix]
        fits = len(array.shape) == len(shape) and all(
            size == wanted if wanted is not None else size > 0
            for size, wanted in zip(array.shape, shape, strict=True)
        )
        if array.dtype not in dtypes or not fits:
            sizes = ", ".join("?" if wanted is None else str(wanted) for wanted in shape)
            raise self.error(
                suffix, f"is {array.dtype} of shape {array.shape}, not {' or '.join(dtypes)} of ({sizes})"
            )
        return array

    def error(self, suffix: str, message: str) -> ValueError:
        """A ValueError that names the file and the tensor."""
        return ValueError(f"{self.path}: tensor {self.module + suffix!r} {message}")

    @property
    def stored_bytes(self) -> int:
        """Bytes of all parts."""
        return sum(each.values.nbytes for each in self.arrays.values())


def one_of(settings: Fields, name: str, allowed: tuple[Any, ...], default: Any) -> None:
    """Raise ValueError when the setting `name` is none of `allowed`."""
    value = settings.get(name)
    if (default if value is None else value) not in allowed:
        raise settings.error(
            name, f"is {value!r:.80}; octavo reads {' and '.join(str(each) for each in allowed)}"
        )
