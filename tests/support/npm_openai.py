"""The npm package `openai`, installed once into the cache; needs node and npm."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from octavo.model.demo import cache_directory

VERSION = "7.57.0"


def npm_openai() -> Path:
    """A folder whose scripts can import it; skips the test where node is missing or npm can not fetch it."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("node and npm are not installed")
    folder = cache_directory() / f"npm-openai-{VERSION}"
    if not (folder / "node_modules" / "openai" / "package.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        command = ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", f"openai@{VERSION}"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=120)
        if done.returncode:
            pytest.skip(f"npm can not fetch openai: {done.stderr[-200:]}")
    return folder


def run_script(source: str, folder: Path) -> str:
    """What an ES module prints."""
    script = folder / "script.mjs"
    script.write_text(source)
    # The file is where node looks for modules from.
    done = subprocess.run(
        ["node", str(script)], capture_output=True, text=True, check=False, timeout=60, cwd=folder
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
