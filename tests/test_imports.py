"""Who imports whom: no circles between modules or packages, and no package imports one above it.

Imports inside functions and under TYPE_CHECKING count too. Two things are apart: `octavo/__init__.py`, which
hands out names of every package lazily, and the compiled module.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterable, Mapping
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import octavo

ROOT = Path(octavo.__file__).parent
ORDER = (
    "__main__",
    "cli",
    "doctor",
    "plan",
    "bench",
    "llm",
    "server",
    "observe",
    "frontend",
    "engine",
    "quantise",
    "model",
    "runtime",
    "sampling",
    "flags",
    "config",
    "request_options",
    "sampling_params",
    "structured",
    "tokenizer",
    "formats",
    "outputs",
    "machine",
    "logs",
)
"""The packages of octavo, the highest first. A module beside them is a package of its own."""

HAND_IN_HAND = {"octavo.engine": {"sequence"}}
"""Modules that import a package beside them which imports them: a sequence has blocks, and what keeps the
blocks reads sequences. The modules in the package make no circle."""

Graph = Mapping[str, set[str]]


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def modules() -> dict[str, set[str]]:
    """For each module those of octavo that it imports."""
    paths = {name_of(path): path for path in ROOT.rglob("*.py")}
    paths.pop("octavo")
    found = {}
    for name, path in paths.items():
        imported: set[str] = set()
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.Import):
                imported |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module is not None:
                assert node.level == 0, f"{name} has a relative import"
                for alias in node.names:
                    inner = f"{node.module}.{alias.name}"
                    imported.add(inner if inner in paths else node.module)
        found[name] = (imported & paths.keys()) - {name}
    return found


def between(parent: str) -> Graph:
    """Who imports whom among the packages and modules directly in `parent`."""

    def child(name: str) -> str | None:
        inner = name.removeprefix(f"{parent}.")
        return None if inner == name else inner.split(".")[0]

    graph: dict[str, set[str]] = defaultdict(set)
    for name, imported in modules().items():
        if (own := child(name)) is not None:
            graph[own] |= {each for other in imported if (each := child(other)) not in (None, own)}
    return graph


def circle(graph: Graph) -> list[str] | None:
    """A circle of imports, None where there is none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        circle: list[str] = error.args[1]
        return circle[::-1]
    return None


def packages() -> Iterable[str]:
    """octavo and every package in it."""
    return sorted(name_of(path) for path in ROOT.rglob("__init__.py"))


def test_no_circle_between_modules() -> None:
    assert circle(modules()) is None


@pytest.mark.parametrize("parent", packages())
def test_no_circle_between_what_is_in_a_package(parent: str) -> None:
    graph = {name: imported - HAND_IN_HAND.get(parent, set()) for name, imported in between(parent).items()}
    assert circle(graph) is None


def test_no_package_imports_one_above_it() -> None:
    graph = between("octavo")
    assert sorted(graph) == sorted(ORDER)
    for place, name in enumerate(ORDER):
        assert graph[name] <= {*ORDER[place + 1 :]}, f"octavo.{name} imports what stands above it"


def test_a_circle_is_found() -> None:
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"a"}}) is not None
    assert circle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) is None
    assert modules()["octavo.llm"] >= {"octavo.engine.engine", "octavo.outputs"}
