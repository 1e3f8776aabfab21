"""Typed, bounded reading of a model's description: config.json, or a GGUF's metadata."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

MAX_SIZE = 1 << 24
"""Largest count or size that a description may give: no model comes near, and a corrupt file does no harm."""


class Fields:
    """The fields `values` of a model's description; each getter raises ValueError naming the field.

    `prefix` is put before each name ("llama." for a GGUF of that architecture). A field that is null is one
    that is not there.
    """

    def __init__(self, values: Mapping[str, Any], prefix: str = "") -> None:
        self._values, self._prefix = values, prefix

    def __contains__(self, name: str) -> bool:
        return self._values.get(self._prefix + name) is not None

    def get(self, name: str) -> Any:
        """The field as it is, None where there is none."""
        return self._values.get(self._prefix + name)

    def size(self, name: str, default: int | None = None, low: int = 1, high: int = MAX_SIZE) -> int:
        """An integer from `low` to `high`; required where there is no default."""
        value = self._required(name, default)
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise self.error(name, f"must be an integer from {low} to {high}, got {_short(value)}")
        return value

    def sizes(self, name: str, count: int, default: int | None = None) -> tuple[int, ...]:
        """A `size` for each of `count` layers: a list of so many, or one integer for all."""
        value = self.get(name)
        if isinstance(value, np.ndarray):  # so a GGUF has them
            value = value.tolist()
        if not isinstance(value, list):
            return (self.size(name, default),) * count
        if len(value) != count:
            raise self.error(name, f"must be one integer, or {count}, got {len(value)}")
        each = Fields({f"{self._prefix}{name}[{i}]": item for i, item in enumerate(value)}, self._prefix)
        return tuple(each.size(f"{name}[{i}]") for i in range(count))

    def number(self, name: str, default: float | None = None) -> float:
        """A number from 1e-15 to 1e15; required where there is no default."""
        value = self._required(name, default)
        if not isinstance(value, int | float) or isinstance(value, bool) or not 1e-15 <= value <= 1e15:
            raise self.error(name, f"must be a number from 1e-15 to 1e15, got {_short(value)}")
        return float(value)

    def flag(self, name: str, default: bool) -> bool:
        """True or False."""
        value = self._required(name, default)
        if not isinstance(value, bool):
            raise self.error(name, f"must be true or false, got {_short(value)}")
        return value

    def text(self, name: str, default: str | None = None) -> str:
        """A string; required where there is no default."""
        value = self._required(name, default)
        if not isinstance(value, str):
            raise self.error(name, f"must be a string, got {_short(value)}")
        return value

    def group(self, name: str) -> Fields:
        """The fields of the object `name`; none where it is not there."""
        value = self.get(name)
        if not isinstance(value, dict | None):
            raise self.error(name, f"must be an object, got {_short(value)}")
        return Fields({f"{name}.{key}": each for key, each in (value or {}).items()}, f"{name}.")

    def error(self, name: str, message: str) -> ValueError:
        """A ValueError that names the field."""
        return ValueError(f"{self._prefix}{name} {message}")

    def _required(self, name: str, default: Any) -> Any:
        value = self.get(name)
        if value is None:
            value = default
        if value is None:
            raise self.error(name, "is missing")
        return value


def _short(value: object) -> str:
    return repr(value)[:80]
