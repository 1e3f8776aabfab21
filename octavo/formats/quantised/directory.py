"""A Hugging Face directory whose linears are quantised: it looks like one whose weights are whole."""

from __future__ import annotations

from collections.abc import KeysView
from dataclasses import replace
from pathlib import Path

from octavo.formats.fields import Fields
from octavo.formats.quantised.method import Method, Parts
from octavo.formats.safetensors import SafetensorsDirectory
from octavo.formats.weight import Weight


class QuantisedDirectory(SafetensorsDirectory):
    """The directory at `path`, quantised by `method` with the settings of its quantization_config.

    Raises ValueError, of one line and naming the file, as its base and for settings that are not read.
    """

    def __init__(self, path: Path, method: Method, settings: Fields) -> None:
        super().__init__(path)
        self.method = method
        self._settings = settings
        try:
            method.check(settings)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
        self._parts_of: dict[str, list[str]] | None = None

    @property
    def tensors(self) -> KeysView[str]:
        """The names of the weights, and of the tensors that are part of none."""
        return self._weights().keys()

    def tensor(self, name: str) -> Weight:
        """The weight `name`. Raises ValueError naming a part that is missing or has another shape."""
        parts = self._weights().get(name)
        if not parts:
            return super().tensor(name)
        module = name.removesuffix(self.method.weight_suffix)
        arrays = {suffix: self.array(module + suffix) for suffix in parts}
        try:
            described = self.metadata(module + parts[0]).get(name, "")
            weight = self.method.read(Parts(self.path, module, arrays, described), self._settings)
        except ValueError as error:
            message = str(error)
            raise ValueError(message if str(self.path) in message else f"{self.path}: {message}") from None
        return replace(weight, sources=tuple(each.values for each in arrays.values()))

    def _weights(self) -> dict[str, list[str]]:
        """For each weight the ends of its parts' names; none for a tensor that stands for itself."""
        if self._parts_of is None:
            self._parts_of = self._group(super().tensors)
        return self._parts_of

    def _group(self, stored: KeysView[str]) -> dict[str, list[str]]:
        method = self.method
        suffixes = (*method.markers, *method.parts)
        modules = {
            name.removesuffix(marker): None
            for name in stored
            for marker in method.markers
            if name.endswith(marker)
        }
        if not modules:
            raise ValueError(
                f"{self.path}: is not quantised by {method.name}: it has no tensors named "
                + " or ".join(f"*{marker}" for marker in method.markers)
            )
        weights = {
            module + method.weight_suffix: [suffix for suffix in suffixes if module + suffix in stored]
            for module in modules
        }
        used = {module + suffix for module in modules for suffix in suffixes}
        rest = [name for name in stored if name not in used and not name.endswith(method.unused)]
        return weights | {name: [] for name in rest}
