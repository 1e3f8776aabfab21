"""The documentation's examples for a server, run as they stand against one with the demo model."""

from __future__ import annotations

import contextlib
import io
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.npm_openai import npm_openai, run_script
from support.serve_command import Command, serve

pytest.importorskip("octavo._native", reason="the kernels are not built")

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]
ADDRESSES = ("http://localhost:8000", "http://127.0.0.1:8000", "localhost:8000", "127.0.0.1:8000")


def examples(language: str, word: str) -> list[Any]:
    """The blocks of a language which hold `word` and ask a server that runs already."""
    found = []
    for page in PAGES:
        pattern = rf"^```{language}\n(.*?)^```"
        for number, code in enumerate(re.findall(pattern, page.read_text(), re.DOTALL | re.MULTILINE)):
            if word in code and any(each in code for each in ADDRESSES) and "octavo serve" not in code:
                found.append(pytest.param(code, id=f"{page.stem}-{number}"))
    return found


@pytest.fixture(scope="module")
def command(demo_model: Path) -> Iterator[Command]:
    with serve(demo_model, "--served-model-name", "SmolLM2-135M-Instruct") as command:
        yield command


def here(code: str, command: Command) -> str:
    for address in ADDRESSES:
        code = code.replace(address, "@address@")
    return code.replace("@address@", command.url)


@pytest.mark.parametrize("code", examples("bash", "curl"))
def test_curl(code: str, command: Command) -> None:
    done = subprocess.run(
        ["bash", "-euc", here(code, command)], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    assert '{"error":' not in done.stdout


@pytest.mark.parametrize("code", examples("python", ""))
def test_python(code: str, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            exec(compile(here(code, command), "example", "exec"), {"__name__": "__main__"})
    except ModuleNotFoundError as error:
        pytest.skip(f"{error.name} is not installed")
    assert printed.getvalue().strip()
    if "Germany" in code:
        assert "Berlin" in printed.getvalue()


@pytest.mark.parametrize("code", examples("javascript", "openai"))
def test_javascript(code: str, command: Command) -> None:
    assert "Berlin" in run_script(here(code, command), npm_openai())


def test_there_are_examples() -> None:
    """None of the lists above may become empty because a page writes them differently."""
    assert len(examples("bash", "curl")) >= 5
    assert len(examples("python", "")) >= 6
    assert len(examples("javascript", "openai")) >= 1
