"""GGUF checkpoints in several files, NAME-00001-of-00003.gguf and so on, as llama-gguf-split writes them.

The first file has the metadata of the model; each has some of the tensors, and says which part of how many it
is in split.no and split.count.
"""

from __future__ import annotations

import re
from collections.abc import Callable, KeysView
from pathlib import Path
from typing import Any, Protocol, TypeVar

from octavo.formats.inside import file_inside


class Part(Protocol):
    """One opened file."""

    path: Path
    metadata: dict[str, Any]

    @property
    def tensors(self) -> KeysView[str]:
        """The names of its tensors."""
        ...


P = TypeVar("P", bound=Part)


def open_parts(path: Path, open_part: Callable[[Path], P]) -> list[P]:
    """The file at `path`, or all parts of the checkpoint that it is a part of, the first one first.

    Raises ValueError naming a part that is missing, is not what its name says, or has a tensor of another.
    """
    given = open_part(path)
    count = given.metadata.get("split.count", 1)
    if type(count) is int and count < 2:
        return [given]
    name = re.fullmatch(r"(.*)-[0-9]{5}-of-([0-9]{5})\.gguf", path.name, re.DOTALL)
    if name is None or count != int(name.group(2)):
        raise ValueError(
            f"{path}: is a part of a split model, of {count!r:.20} parts, but is not named so: "
            "NAME-00001-of-00002.gguf"
        )
    parts = []
    for number in range(count):
        part_path = path.with_name(f"{name.group(1)}-{number + 1:05}-of-{count:05}.gguf")
        parts.append(given if part_path == path else open_part(file_inside(path.parent, part_path.name)))
        _check_part(parts[-1], number, count)
    _check_tensors(parts)
    return parts


def _check_part(part: Part, number: int, count: int) -> None:
    stated = part.metadata.get("split.no"), part.metadata.get("split.count")
    if stated != (number, count):
        raise ValueError(
            f"{part.path}: split.no and split.count are {stated!r:.80}, not {number} and {count} as named"
        )


def _check_tensors(parts: list[P]) -> None:
    owner: dict[str, P] = {}
    for part in parts:
        for name in part.tensors:
            if name in owner:
                raise ValueError(f"{part.path}: tensor {name!r:.200} is in {owner[name].path.name} too")
            owner[name] = part
    expected = parts[0].metadata.get("split.tensors.count", len(owner))
    if expected != len(owner):
        raise ValueError(
            f"{parts[0].path}: the parts have {len(owner)} tensors, not {expected!r:.20} as stated"
        )
