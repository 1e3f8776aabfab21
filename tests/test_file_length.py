"""No source file is long: one idea a file."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDERS = ("octavo", "csrc", "tests", "benchmarks")
SUFFIXES = {".py", ".pyi", ".cpp", ".h", ".js", ".css", ".html", ".sh"}
MOST_LINES = 400


def test_no_file_is_longer_than_400_lines():
    files = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if path.suffix in SUFFIXES]
    assert {path.relative_to(ROOT).parts[0] for path in files} == set(FOLDERS)
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in files}
    assert {name: length for name, length in lengths.items() if length > MOST_LINES} == {}
