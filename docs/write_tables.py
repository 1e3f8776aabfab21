"""Write the generated tables into the pages: `.venv/bin/python docs/write_tables.py`.

Run it after a change of a flag or of a request's fields; a test fails until the pages are up to date.

A table stands between two comments. The first names it, as in `<!-- flags: EngineConfig -->`,
`<!-- flags: EngineConfig Scheduler -->` (one group of flags), `<!-- api: paths -->` or
`<!-- api: /v1/completions -->`; the second is `<!-- end -->`.
"""

from __future__ import annotations

import re
from pathlib import Path

import api_tables
import flag_tables

_OPENING = re.compile(r"^<!-- (flags|api): ([^\n]+) -->$", re.MULTILINE)
_TABLE = re.compile(_OPENING.pattern + r"\n((?:(?!<!-- ).)*)^<!-- end -->$", re.MULTILINE | re.DOTALL)


def with_tables(page: str) -> str:
    """The text of a page with each of its tables as the code has it now.

    Raises ValueError for a table without its `<!-- end -->`, and KeyError for one that nothing generates.
    """
    if len(_OPENING.findall(page)) != len(_TABLE.findall(page)):
        raise ValueError("a table has no `<!-- end -->`")
    return _TABLE.sub(
        lambda mark: f"<!-- {mark[1]}: {mark[2]} -->\n\n{_table(mark[1], mark[2])}\n\n<!-- end -->", page
    )


def _table(kind: str, name: str) -> str:
    if kind == "api":
        return api_tables.table(name)
    config, _, group = name.partition(" ")
    return flag_tables.table(flag_tables.CONFIGS[config], group or None)


if __name__ == "__main__":
    for path in sorted(Path(__file__).parent.glob("**/*.md")):
        before = path.read_text()
        after = with_tables(before)
        if after != before:
            path.write_text(after)
            print(f"{path}: tables rewritten")
