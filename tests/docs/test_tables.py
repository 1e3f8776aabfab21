"""The generated tables stand in the pages as the code has them now."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.docs_script import ROOT, docs_script

WRITE = docs_script("write_tables")
PAGES = sorted((ROOT / "docs").glob("**/*.md"))


@pytest.mark.parametrize("page", [pytest.param(page, id=page.stem) for page in PAGES])
def test_the_tables_of_a_page_are_up_to_date(page: Path) -> None:
    text = page.read_text()
    assert WRITE.with_tables(text) == text, "run `.venv/bin/python docs/write_tables.py`"


def test_there_are_tables() -> None:
    tables = sum(page.read_text().count("\n<!-- end -->") for page in PAGES)
    assert tables >= 15


def test_an_old_row_is_replaced() -> None:
    old = "before\n\n<!-- flags: EngineConfig Scheduler -->\n\n| `--gone` | | |\n\n<!-- end -->\n\nafter\n"
    new = WRITE.with_tables(old)
    assert "--gone" not in new
    assert "| `--max-num-seqs` |" in new
    assert new.startswith("before\n\n<!-- flags: EngineConfig Scheduler -->\n\n| flag |")
    assert new.endswith(" |\n\n<!-- end -->\n\nafter\n")
    assert WRITE.with_tables(new) == new


@pytest.mark.parametrize("name", ["flags: NoConfig", "flags: EngineConfig NoGroup", "api: /nothing"])
def test_a_table_that_nothing_generates_is_an_error(name: str) -> None:
    with pytest.raises(KeyError):
        WRITE.with_tables(f"<!-- {name} -->\n<!-- end -->\n")


@pytest.mark.parametrize(
    "page",
    [
        "<!-- api: paths -->\n\ntext\n",
        "<!-- api: paths -->\n\ntext\n\n<!-- api: /tokenize -->\n<!-- end -->\n",
    ],
)
def test_a_table_without_an_end_is_an_error(page: str) -> None:
    with pytest.raises(ValueError, match="no `<!-- end -->`"):
        WRITE.with_tables(page)
