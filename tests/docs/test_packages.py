"""The table of packages in docs/architecture.md: complete, and in the order of the imports.

`tests/test_imports.py` finds circles.
"""

from __future__ import annotations

import ast
import re

import pytest
from support.docs_script import ROOT

ENTRY_POINTS = {"__init__", "__main__"}
"""They import what they offer, and nothing imports them for more than the version."""


def levels() -> dict[str, int]:
    """The packages and modules right below octavo, by the number of their row in the table."""
    page = (ROOT / "docs" / "architecture.md").read_text()
    rows = [row for row in page.splitlines() if row.startswith("| `octavo/")]
    first_cells = [row.split(" | ")[0] for row in rows]
    return {
        name: level
        for level, cell in enumerate(first_cells)
        for name in re.findall(r"`octavo/(\w+)(?:/|\.py)`", cell)
    }


def imported(tree: ast.AST) -> set[str]:
    """What a file imports from octavo, as names right below it; lazy imports and those for types count."""
    found = set()
    for node in ast.walk(tree):
        modules: list[str] = []
        if isinstance(node, ast.Import):
            modules = [each.name for each in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module == "octavo":
            modules = [f"octavo.{each.name}" for each in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            modules = [node.module]
        found |= {module.split(".")[1] for module in modules if module.startswith("octavo.")}
    return found - {"_native", "__version__"}


def test_every_package_is_in_the_table() -> None:
    names = {path.stem for path in (ROOT / "octavo").iterdir() if path.suffix == ".py"}
    names |= {path.parent.name for path in (ROOT / "octavo").glob("*/__init__.py")}
    assert names - ENTRY_POINTS == set(levels())


@pytest.mark.parametrize("name", sorted(levels()))
def test_a_package_imports_only_what_stands_below_it(name: str) -> None:
    level, all_levels = levels()[name], levels()
    package = ROOT / "octavo" / name
    files = sorted(package.rglob("*.py")) if package.is_dir() else [package.with_suffix(".py")]
    assert files
    wrong = [
        f"{path.relative_to(ROOT)} imports octavo.{each}"
        for path in files
        for each in sorted(imported(ast.parse(path.read_text())))
        if each != name and all_levels[each] < level
    ]
    assert wrong == []
