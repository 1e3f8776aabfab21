"""What the README and the documentation say, held against the code."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib
import io
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from octavo.cli.main import COMMANDS, main
from octavo.config import EngineConfig, Flag, flag_name
from octavo.model.families.registry import FAMILIES
from octavo.server.config import ServerConfig

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("**/*.md"))]
HEREDOC = re.compile(r"\.venv/bin/python - <<'END'\n(.*?)\nEND\n", re.DOTALL)


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


def commands(page: Path) -> list[list[str]]:
    """The arguments of every `octavo ...` on the page, pipes and && taken apart."""
    found = []
    for block in blocks(page, "bash"):
        for line in HEREDOC.sub("", block).replace("\\\n", " ").splitlines():
            for part in re.split(r"&&|\|", line):
                words = shlex.split(part, comments=True) if "octavo " in part else []
                words = [word for word in words if "=" not in word or word.startswith("-")]
                if words and Path(words[0]).name == "octavo":
                    found.append(words[1:])
    return found


def snippets(page: Path) -> list[str]:
    """The Python of the page that needs no server."""
    inside = [code for block in blocks(page, "bash") for code in HEREDOC.findall(block)]
    return [code for code in (*blocks(page, "python"), *inside) if "localhost:8000" not in code]


def cases(found: Any) -> list[Any]:
    """A test case for each thing found on a page."""
    return [
        pytest.param(each, id=f"{page.stem}-{number}")
        for page in PAGES
        for number, each in enumerate(found(page))
    ]


@pytest.mark.parametrize("arguments", cases(commands))
def test_every_command_is_one_that_octavo_takes(arguments: list[str], monkeypatch: pytest.MonkeyPatch):
    taken = []

    def run(parsed: argparse.Namespace) -> int:
        taken.append(parsed)
        return 0

    monkeypatch.setattr(importlib.import_module(COMMANDS[arguments[0]][0]), "run", run)
    assert main(arguments) == 0
    assert len(taken) == 1


@pytest.mark.parametrize("code", cases(snippets))
def test_every_snippet_runs(code: str, demo_model: Path):
    assert demo_model.exists()
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, "snippet", "exec"), {"__name__": "__main__"})
    assert printed.getvalue().strip()
    assert "False" not in printed.getvalue()


def test_ci_runs_the_readmes_two_commands():
    lines = (ROOT / "README.md").read_text().splitlines()
    script = (ROOT / ".ci" / "run").read_text()
    for name in ("demo", "tests"):
        (command,) = re.findall(rf"^{name}='(.*)'$", script, re.MULTILINE)
        assert lines.count(command) == 1


def test_the_serving_page_has_a_row_for_every_flag():
    page = (ROOT / "docs" / "serving.md").read_text()
    for config in (EngineConfig, ServerConfig):
        for field in dataclasses.fields(config):
            rows = [line for line in page.splitlines() if line.startswith(f"| `{flag_name(field.name)}`")]
            assert len(rows) == 1
            assert Flag.of(field).help in rows[0]
            assert rows[0].count(" | ") == 2


def test_the_scheduling_page_has_the_scheduler_flags_and_no_others():
    page = (ROOT / "docs" / "scheduling.md").read_text()
    rows = [line.split("`")[1] for line in page.splitlines() if line.startswith("| `--")]
    flags = {
        flag_name(each.name)
        for each in dataclasses.fields(EngineConfig)
        if Flag.of(each).group == "Scheduler"
    }
    assert set(rows) - {"--no-enable-chunked-prefill"} == flags


def test_the_models_page_has_every_family():
    page = (ROOT / "docs" / "models.md").read_text()
    for family in FAMILIES:
        for architecture in (*family.hf_architectures, *family.gguf_architectures):
            assert f"`{architecture}`" in page
