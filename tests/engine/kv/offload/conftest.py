"""Engines with a KV offload."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.offload_server import Server


@pytest.fixture
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    tier = getattr(request, "param", "disk")
    server = Server(None, host_blocks=50) if tier == "host" else Server(tmp_path)
    yield server
    server.engine.close()
