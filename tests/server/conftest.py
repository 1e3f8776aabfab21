"""A server that all tests of a module share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.live_server import LiveServer, live_server


@pytest.fixture(scope="module")
def server() -> Iterator[LiveServer]:
    with live_server() as server:
        yield server
