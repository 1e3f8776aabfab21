"""Every file, class and function that the documentation names is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from support.docs_script import ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("**/*.md"))]
EXAMPLES = {
    "csrc/ops/gelu_mul.cpp",
    "octavo/model/families/smollm3.py",
    "octavo/server/other_apis/plain.py",
    "tests/server/other_apis/test_plain.py",
}
"""Files that the recipes make."""

NAMED = re.compile(r"`((?:\.ci|octavo|csrc|tests|docs|benchmarks|deploy)/[\w./-]+)`((?::? `[\w:.]+`,?)*)")
"""A path, and what is named in it: `octavo/llm.py`: `LLM`, `generate`."""


def named(page: Path) -> list[tuple[str, list[str]]]:
    text = " ".join(page.read_text().split())
    found = []
    for path, rest in NAMED.findall(text):
        names = re.findall(r"`([\w:.]+)`", rest) if rest.startswith(":") else []
        found.append((path, names))
    return found


def defines(path: Path, name: str) -> bool:
    """Whether a Python or C++ file has a class or function of that name."""
    last = re.escape(re.split(r"::|\.", name)[-1])
    pattern = rf"^\s*(?:async )?(?:def|class) {last}\b" if path.suffix == ".py" else rf"\b{last}\("
    return re.search(pattern, path.read_text(), re.MULTILINE) is not None


@pytest.mark.parametrize("page", [pytest.param(page, id=str(page.relative_to(ROOT))) for page in PAGES])
def test_what_a_page_names_is_there(page: Path) -> None:
    missing = []
    for path, names in named(page):
        if path in EXAMPLES:
            continue
        if not (ROOT / path).exists():
            missing.append(path)
        else:
            missing += [f"{name} in {path}" for name in names if not defines(ROOT / path, name)]
    assert missing == []


def test_the_life_of_a_request_names_functions() -> None:
    found = named(ROOT / "docs" / "life-of-a-request.md")
    assert sum(len(names) for _, names in found) >= 30


def test_what_is_not_there_is_found() -> None:
    assert not defines(ROOT / "octavo" / "llm.py", "LLM.no_such_method")
    assert defines(ROOT / "octavo" / "llm.py", "LLM.generate")
    assert not (EXAMPLES & {str(path.relative_to(ROOT)) for path in ROOT.glob("*/**/*.py")})
